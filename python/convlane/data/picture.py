"""Reading pictures of any kind as 8-bit pixels; only this file decides which pictures are read and which rejected."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
from numpy.typing import NDArray

from convlane._files import open_regular

if TYPE_CHECKING:
    from PIL import Image

__all__ = ["Picture", "open_picture", "read_image", "rgb_picture"]

PicturePath: TypeAlias = str | bytes | os.PathLike[str]

Picture: TypeAlias = "PicturePath | Image.Image | NDArray[np.uint8]"
"""The path of a file, a Pillow image, or a uint8 array (3, H, W)."""


def read_image(path: PicturePath) -> NDArray[np.uint8]:
    """Read a picture file as uint8 (3, H, W), rotated upright by its EXIF tag; grey pictures get three equal channels.

    16-bit grey pictures are scaled to 8 bits. The file's name may consist of any bytes.

    Raises
    ------
    ImportError
        If Pillow is not installed.
    OSError
        If the file cannot be opened.
    ValueError
        If it is damaged, not a picture, not a regular file, or so large that Pillow takes it for an attack, or if its
        pixels are floating-point numbers or 32-bit integers, as such files do not say which number is white.
    """
    return np.asarray(rgb_picture(path)).transpose(2, 0, 1)


def rgb_picture(picture: Picture) -> Image.Image:
    """Return a picture with three 8-bit channels: a file as read by `read_image`, an image without rotation."""
    if isinstance(picture, (str, bytes, os.PathLike)):
        image = open_picture(picture)
        with _reading(os.fsdecode(picture)):
            return image.convert("RGB")
    _require_pillow()
    from PIL import Image

    if isinstance(picture, np.ndarray):
        if picture.dtype != np.uint8 or picture.ndim != 3 or len(picture) != 3 or 0 in picture.shape:
            raise ValueError(
                f"a picture must be uint8 (3, H, W), got {picture.dtype} of the shape {picture.shape}; convert "
                "(H, W, 3) with .transpose(2, 0, 1)"
            )
        return Image.fromarray(np.ascontiguousarray(picture.transpose(1, 2, 0)))
    if isinstance(picture, Image.Image):
        with _reading(os.fsdecode(getattr(picture, "filename", "") or "the Pillow image")):
            return _eight_bits(picture).convert("RGB")
    raise TypeError(
        f"a picture must be a file's path, a Pillow image or an array uint8 (3, H, W), got {type(picture).__name__}"
    )


def open_picture(path: PicturePath) -> Image.Image:
    """Read a picture file as `read_image` does, but as a Pillow image with the channels that the file has."""
    _require_pillow()
    from PIL import Image

    with open_regular(path) as file, _reading(os.fsdecode(path)), Image.open(file) as image:
        image.load()
        turn, pixels = _turn(image), _eight_bits(image)
        return pixels if turn is None else pixels.transpose(turn)


def _require_pillow() -> None:
    try:
        import PIL  # noqa: F401
    except ImportError:
        raise ImportError("pictures need Pillow: pip install 'convlane[data]'") from None


@contextmanager
def _reading(name: str) -> Iterator[None]:
    """Turn whatever Pillow and its decoders raise for an unreadable file into a ValueError that names the file."""
    try:
        yield
    except MemoryError:
        raise
    except Exception as error:
        raise ValueError(f"{name}: not a readable picture: {str(error) or type(error).__name__}") from error


_ORIENTATION, _BITS, _PHOTOMETRIC = 0x112, 0x102, 0x106  # tags of TIFF 6.0; the first also of EXIF
_WHITE_IS_ZERO = 0


def _turn(image: Image.Image) -> Image.Transpose | None:
    """Return the transposition that turns a picture upright, from its EXIF tag."""
    from PIL.Image import Transpose

    try:
        orientation = image.getexif().get(_ORIENTATION)
    except Exception:  # the tag is damaged, but the pixels are still good
        return None
    turns = {
        2: Transpose.FLIP_LEFT_RIGHT,
        3: Transpose.ROTATE_180,
        4: Transpose.FLIP_TOP_BOTTOM,
        5: Transpose.TRANSPOSE,
        6: Transpose.ROTATE_270,
        7: Transpose.TRANSVERSE,
        8: Transpose.ROTATE_90,
    }
    return turns.get(orientation) if isinstance(orientation, int) else None


def _eight_bits(image: Image.Image) -> Image.Image:
    """Return an image with 8-bit pixels, scaled; Pillow would clip them at 255."""
    from PIL import Image

    if 0 in image.size:
        raise ValueError("it has no pixels")
    if image.mode.startswith("I;16") or (image.mode == "I" and image.format in ("PNG", "PPM")):  # as in Pillow 9
        tags = getattr(image, "tag_v2", {})
        white = 2 ** int(np.ravel(tags.get(_BITS, 16))[0]) - 1  # TIFF also has 12 bits
        levels = np.asarray(image).astype(np.uint32)
        levels = (255 * levels + white // 2) // white
        if tags.get(_PHOTOMETRIC) == _WHITE_IS_ZERO:
            levels = 255 - levels
        return Image.fromarray(levels.astype(np.uint8))
    if image.mode in ("I", "F"):
        kind = "floating-point numbers" if image.mode == "F" else "32-bit integers"
        raise ValueError(f"its pixels are {kind}, and it is not known which value is white; scale them to 0 to 255")
    return image
