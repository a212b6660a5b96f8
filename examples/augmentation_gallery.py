"""Apply every augmentation to one picture: ``python examples/augmentation_gallery.py`` writes a gallery as a PNG file.

The gallery has one row for each augmentation, with six draws. The picture is one that comes with scikit-learn; --image
takes another. Needs Pillow and scikit-learn: ``pip install 'convlane[demo]'``.
"""

from __future__ import annotations

import argparse

import numpy as np
from PIL import Image, ImageDraw

from convlane.data import augment, read_image

SIZE, GAP, LABEL = 160, 4, 150  # in pixels: of a picture, between two pictures, of the column with the names


def steps(picture):
    """Return the augmentations by name; PCA's components are those of the picture itself."""
    size = picture.shape[1]
    return {
        "as it is": augment.Compose(),
        "Mirror": augment.Mirror(),
        "RandomCrop": augment.RandomCrop(size, padding=size // 6, border="reflect"),
        "RandomResizedCrop": augment.RandomResizedCrop(size, scale=(0.2, 1)),
        "Rotation": augment.Rotation(25),
        "Shear": augment.Shear(20, border="edge"),
        "Elastic": augment.Elastic(alpha=220, sigma=9, border="reflect"),
        "ColorShift": augment.ColorShift(0.25),
        "ColorJitter": augment.ColorJitter(0.5, 0.5, 0.9),
        "PCAColor": augment.PCAColor.fit([picture], std=1.2),
        "all of them": augment.Compose(
            augment.RandomResizedCrop(size, scale=(0.4, 1)),
            augment.Mirror(),
            augment.Rotation(15, border="reflect"),
            augment.Elastic(alpha=120, sigma=9, border="reflect"),
            augment.ColorJitter(0.3, 0.3, 0.3),
        ),
    }


def main():
    """Write the gallery."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--image", help="a picture of your own")
    parser.add_argument("--out", default="augmentations.png", help="default: augmentations.png")
    parser.add_argument("--draws", type=int, default=6, help="pictures in a row (default 6)")
    args = parser.parse_args()

    if args.image:
        whole = read_image(args.image)
    else:
        from sklearn.datasets import load_sample_image

        whole = load_sample_image("flower.jpg").transpose(2, 0, 1)  # (H, W, 3) to (3, H, W)
    # A crop without randomness: the whole height of the picture, from its middle.
    middle = augment.RandomResizedCrop(SIZE, scale=(1, 1), ratio=(1, 1))
    picture = middle(whole, np.random.default_rng(0))

    rows = steps(picture)
    gallery = Image.new("RGB", (LABEL + args.draws * (SIZE + GAP), len(rows) * (SIZE + GAP)), "white")
    pen = ImageDraw.Draw(gallery)
    for row, (name, step) in enumerate(rows.items()):
        top = row * (SIZE + GAP)
        pen.text((8, top + SIZE // 2), name, fill="black")
        for draw in range(args.draws):
            image = step(picture, np.random.default_rng((row, draw)))
            pixels = (255 * np.clip(image, 0, 1)).round().astype(np.uint8).transpose(1, 2, 0)
            gallery.paste(Image.fromarray(pixels), (LABEL + draw * (SIZE + GAP), top))
    gallery.save(args.out)
    print(f"{len(rows)} augmentations, {args.draws} draws of each: {args.out}")


if __name__ == "__main__":
    main()
