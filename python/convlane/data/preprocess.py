"""Preparation of pictures for networks, as done by the publishers of their weights.

Pictures are resized by Pillow, so that the result is the same to the last bit.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from convlane.data.picture import Picture, rgb_picture
from convlane.functional._arguments import Array
from convlane.models.registry import preparations

if TYPE_CHECKING:
    from PIL import Image

__all__ = ["Preprocessing", "imagenet_categories", "preprocessing"]

_MAX_ASPECT = 32  # the rest of a longer picture would be cropped anyway, but resizing it might exceed the memory
_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of the colours of ImageNet


@dataclass(frozen=True)
class Preprocessing:
    """Resize a picture, crop its centre and normalise its colours; a function from a picture to float32 (3, H, W).

    The colours, 0 to 255, become ``(colour / divisor - mean) / std``.

    Parameters
    ----------
    crop
        The height and width of the result; None keeps all of the resized picture.
    resize
        The size of the shorter side before the crop; None resizes the whole picture to `crop` x `crop`, whatever its
        aspect ratio.
    interpolation
        ``"nearest"``, ``"bilinear"`` or ``"bicubic"``, as in Pillow.
    divisor, mean, std
        As in the formula; mean and std for each channel.
    bgr
        Whether the channels are reversed before the formula is applied, so that blue comes first.

    Notes
    -----
    If a picture is more than 32 times as long as wide, only the part of that length around its centre is resized, so
    that no file takes more memory than its own pixels and 32 squares of side `resize`. If `resize` is None, nothing is
    cropped.

    Examples
    --------
    >>> import dataclasses
    >>> import numpy as np
    >>> from convlane.data import preprocessing
    >>> prepare = preprocessing("resnet50")
    >>> prepare.resize, prepare.crop
    (256, 224)
    >>> picture = np.full((3, 300, 400), 255, np.uint8)
    >>> prepare(picture).shape
    (3, 224, 224)
    >>> dataclasses.replace(prepare, crop=256)(picture).shape  # for `convlane.TenCrop`
    (3, 256, 256)
    """

    crop: int | None = 224
    resize: int | None = 256
    interpolation: str = "bilinear"
    divisor: float = 255.0
    mean: tuple[float, float, float] = _MEAN
    std: tuple[float, float, float] = _STD
    bgr: bool = False

    def __post_init__(self) -> None:
        if self.interpolation not in ("nearest", "bilinear", "bicubic"):
            raise ValueError(
                f"Preprocessing: interpolation must be nearest, bilinear or bicubic, got {self.interpolation!r}"
            )
        sizes = [size for size in (self.crop, self.resize) if size is not None]
        if not sizes or sizes != sorted(sizes) or sizes[0] < 1:
            raise ValueError(
                f"Preprocessing: crop must be positive and resize not smaller, got {self.crop} and {self.resize}"
            )

    def __call__(self, picture: Picture) -> Array:
        """Prepare a picture: the path of a file, a Pillow image, or uint8 (3, H, W).

        Raises
        ------
        ImportError
            If Pillow is not installed.
        OSError, ValueError
            If the file cannot be read, see `read_image`, the image has pixels that `read_image` would reject, or the
            array has another shape.
        TypeError
            If it is none of these.
        """
        image = self._resized(rgb_picture(picture))
        if self.crop is not None:
            left, top = (round((size - self.crop) / 2) for size in image.size)
            image = image.crop((left, top, left + self.crop, top + self.crop))
        colours = np.asarray(image, np.float32)
        if self.bgr:
            colours = colours[..., ::-1]
        mean, std = (np.array(values, np.float32) for values in (self.mean, self.std))
        prepared: Array = (colours / np.float32(self.divisor) - mean) / std
        return prepared.transpose(2, 0, 1)  # channels last in memory

    def _resized(self, image: Image.Image) -> Image.Image:
        from PIL import Image

        if self.resize is not None:
            image = _shortened(image)
            short = min(image.size)
            size = int(self.resize * image.width / short), int(self.resize * image.height / short)
        elif self.crop is not None:
            size = self.crop, self.crop
        return image if size == image.size else image.resize(size, Image.Resampling[self.interpolation.upper()])


def _shortened(image: Image.Image) -> Image.Image:
    """Return a picture of at most the largest aspect ratio, cropped evenly around its centre."""
    longest = _MAX_ASPECT * min(image.size)
    left, top = (max(0, side - longest) // 2 for side in image.size)
    return image.crop((left, top, image.width - left, image.height - top)) if left or top else image


def preprocessing(name: str, source: str | None = None) -> Preprocessing:
    """Return how pictures are prepared for a network with weights of a given source.

    Parameters
    ----------
    name
        One of `convlane.models.list`.
    source
        The source of the weights: ``"torchvision"`` (those called ``IMAGENET1K_V1``), ``"torchvision_v2"``
        (``IMAGENET1K_V2``), ``"torchvision_swag"`` (``IMAGENET1K_SWAG_LINEAR_V1``), ``"torchvision_voc"``
        (``COCO_WITH_VOC_LABELS_V1``), ``"keras"``, ``"tensorflow"`` (EfficientNet-Lite's authors) or another one that
        was passed to `convlane.models.register`. By default ``"tensorflow"`` for EfficientNet-Lite, else
        ``"torchvision"``.

    Raises
    ------
    ValueError
        If there is no such source, or it has no weights for this network.

    Examples
    --------
    >>> from convlane.data import preprocessing
    >>> preprocessing("mobilenet_v2", "keras").divisor
    127.5
    """
    table = preparations()
    if source is None:
        source = "tensorflow" if name in table["tensorflow"] else "torchvision"
    if source not in table:
        raise ValueError(f"preprocessing: source must be one of {', '.join(sorted(table))}, got {source!r}")
    known = table[source]
    if name not in known:
        near = get_close_matches(str(name), known) or sorted(known)
        raise ValueError(f"preprocessing: {source} has no weights for {name!r}; it has them for {', '.join(near)}")
    return Preprocessing(**known[name])


@cache
def imagenet_categories() -> Sequence[str]:
    """Return the names of ImageNet's 1000 categories, in the order of the classes of trained networks.

    Examples
    --------
    >>> from convlane.data import imagenet_categories
    >>> imagenet_categories()[281]
    'tabby'
    """
    return tuple(Path(__file__).with_name("imagenet_categories.txt").read_text(encoding="utf-8").splitlines())
