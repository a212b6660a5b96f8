"""Read the text on a page with the networks of rapidocr, run by convlane instead of ONNX Runtime.

Needs ``pip install 'convlane[onnx,data]' rapidocr onnxruntime``: the pipeline of rapidocr imports ONNX Runtime,
although this program does not run anything in it. Prints the lines with their scores, and writes the page with boxes
around them.

    python examples/read_text.py page.png --out boxes.png
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw
from rapidocr import RapidOCR
from rapidocr.inference_engine.onnxruntime import main as engine

from convlane.onnx import InferenceSession


def main() -> None:
    """Run the program."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("page", type=Path, help="a picture of text")
    parser.add_argument("--out", type=Path, default=Path("boxes.png"), help="the page with boxes (default boxes.png)")
    args = parser.parse_args()

    engine.InferenceSession = InferenceSession  # in your own program you would change the import instead
    page = Image.open(args.page).convert("RGB")
    found = RapidOCR()(np.asarray(page))
    draw = ImageDraw.Draw(page)
    for text, box, score in zip(found.txts or (), found.boxes if found.txts else (), found.scores or (), strict=True):
        print(f"{score:.3f}  {text}")
        draw.polygon([tuple(corner) for corner in box.tolist()], outline="red", width=2)
    page.save(args.out)
    print(f"{args.out}: {len(found.txts or ())} lines")


if __name__ == "__main__":
    main()
