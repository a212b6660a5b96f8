"""Augmentation: random changes of pictures that preserve their class.

Each is a small frozen dataclass that is called as ``step(image, rng)`` and returns a new picture, or the given one if
it happens to leave it unchanged. Pictures are float32 (C, H, W); uint8 is also accepted and divided by 255, so that
colours always run from 0 to 1. The result depends only on the picture and the generator; `convlane.data.Loader` makes a
generator for each picture and epoch, so that neither the order nor the number of threads matters.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from convlane._floats import quiet
from convlane.data.geometry import as_picture, resample
from convlane.functional import conv2d
from convlane.functional._arguments import Array
from convlane.runtime import num_threads

__all__ = [
    "ColorJitter",
    "ColorShift",
    "Compose",
    "Elastic",
    "Mirror",
    "Normalize",
    "PCAColor",
    "RandomCrop",
    "RandomResizedCrop",
    "Rotation",
    "Shear",
]

Step: TypeAlias = Callable[[Array, np.random.Generator], Array]
"""An augmentation: a function of a picture and a generator."""

_LUMA = np.array([0.299, 0.587, 0.114], np.float32)  # Rec. ITU-R BT.601


@dataclass(frozen=True, init=False)
class Compose:
    """Several steps in sequence, with one generator.

    Examples
    --------
    >>> import numpy as np
    >>> from convlane.data import augment
    >>> steps = augment.Compose(augment.RandomCrop(32, padding=4), augment.Mirror())
    >>> steps(np.zeros((3, 32, 32), np.float32), np.random.default_rng(0)).shape
    (3, 32, 32)
    """

    steps: tuple[Step, ...]

    def __init__(self, *steps: Step) -> None:
        for i, step in enumerate(steps):
            if not callable(step):
                raise TypeError(f"Compose: step {i} must be a function of (image, rng), got {type(step).__name__}")
        object.__setattr__(self, "steps", steps)

    def __call__(self, image: Array, rng: np.random.Generator) -> Array:
        """Apply the step to a picture."""
        image = as_picture(image, "Compose")
        for step in self.steps:
            image = step(image, rng)
        return image


@dataclass(frozen=True)
class Mirror:
    """A horizontal (or, with `vertical`, a vertical) flip with a given probability.

    Examples
    --------
    >>> import numpy as np
    >>> from convlane.data import augment
    >>> augment.Mirror(probability=1)(np.array([[[1, 2]]], np.float32), np.random.default_rng(0))
    array([[[2., 1.]]], dtype=float32)
    """

    probability: float = 0.5
    vertical: bool = False

    def __post_init__(self) -> None:
        _check(self, probability=(0, 1))

    def __call__(self, image: Array, rng: np.random.Generator) -> Array:
        """Apply the step to a picture."""
        image = as_picture(image, "Mirror")
        if rng.random() >= self.probability:
            return image
        return image[:, ::-1] if self.vertical else image[..., ::-1]


@dataclass(frozen=True)
class RandomCrop:
    """A random crop of `size`, after `padding` pixels have been added on all sides.

    The crop is shifted by whole pixels, so nothing is interpolated. `border` and `fill` are as in
    `convlane.data.resample`.

    Examples
    --------
    >>> import numpy as np
    >>> from convlane.data import augment
    >>> augment.RandomCrop(2, padding=1)(np.ones((1, 2, 2), np.float32), np.random.default_rng(0)).shape
    (1, 2, 2)
    """

    size: int | tuple[int, int]
    padding: int = 0
    border: str = "constant"
    fill: float = 0.0

    def __post_init__(self) -> None:
        _check_size(self, self.size)
        _check(self, padding=(0, math.inf), border=_BORDERS)

    def __call__(self, image: Array, rng: np.random.Generator) -> Array:
        """Apply the step to a picture."""
        image, (height, width) = as_picture(image, "RandomCrop"), _pair(self.size)
        rows, columns = (size + 2 * self.padding for size in image.shape[1:])
        if height > rows or width > columns:
            raise ValueError(
                f"RandomCrop: a crop of {height} x {width} does not fit into an image of {image.shape[1]} x "
                f"{image.shape[2]} with {self.padding} pixels of padding"
            )
        top, left = (int(rng.integers(0, margin + 1)) - self.padding for margin in (rows - height, columns - width))
        return _cut(image, top, left, height, width, self.border, self.fill)


@dataclass(frozen=True)
class RandomResizedCrop:
    """A crop of random area, aspect ratio and position, resized to `size` (Szegedy et al. 2015).

    Parameters
    ----------
    size
        The size of the result: (height, width), or one number for both.
    scale
        The bounds of the crop's share of the picture's area.
    ratio
        The bounds of the crop's aspect ratio (width over height), whose logarithm is drawn uniformly.

    Examples
    --------
    >>> import numpy as np
    >>> from convlane.data import augment
    >>> augment.RandomResizedCrop(24)(np.zeros((3, 60, 80), np.float32), np.random.default_rng(0)).shape
    (3, 24, 24)

    Notes
    -----
    Up to ten crops are drawn; if none of them fits into the picture, the largest one at its centre with a permitted
    ratio is used, as in torchvision. A crop that is reduced is averaged over the area of each new pixel.
    """

    size: int | tuple[int, int]
    scale: tuple[float, float] = (0.08, 1.0)
    ratio: tuple[float, float] = (3 / 4, 4 / 3)

    def __post_init__(self) -> None:
        _check_size(self, self.size)
        for name in ("scale", "ratio"):
            low, high = getattr(self, name)
            if not 0 < low <= high or not math.isfinite(high):
                raise ValueError(f"RandomResizedCrop: {name} must be two positive numbers in order, got {(low, high)}")

    def __call__(self, image: Array, rng: np.random.Generator) -> Array:
        """Apply the step to a picture."""
        image, (height, width) = as_picture(image, "RandomResizedCrop"), _pair(self.size)
        top, left, rows, columns = self._part(image.shape[1], image.shape[2], rng)
        scale_x, scale_y = columns / width, rows / height
        samples = min(max(1, math.ceil(max(scale_x, scale_y))), 64)
        part = image[:, top : top + rows, left : left + columns]
        return resample(part, [[scale_x, 0, 0], [0, scale_y, 0]], (height, width), border="edge", samples=samples)

    def _part(self, height: int, width: int, rng: np.random.Generator) -> tuple[int, int, int, int]:
        """Return top, left, rows and columns of the crop."""
        low, high = self.ratio
        for _ in range(10):
            area = height * width * rng.uniform(*self.scale)
            ratio = math.exp(rng.uniform(math.log(low), math.log(high)))
            rows, columns = round(math.sqrt(area / ratio)), round(math.sqrt(area * ratio))
            if 0 < rows <= height and 0 < columns <= width:
                top, left = int(rng.integers(0, height - rows + 1)), int(rng.integers(0, width - columns + 1))
                return top, left, rows, columns
        rows = min(height, max(1, round(width / low)))
        columns = min(width, max(1, round(height * high)))
        return (height - rows) // 2, (width - columns) // 2, rows, columns


@dataclass(frozen=True)
class Rotation:
    """A rotation around the centre by an angle drawn between plus and minus `degrees`.

    `border` and `fill` are as in `convlane.data.resample`.
    """

    degrees: float = 15.0
    border: str = "constant"
    fill: float = 0.0

    def __post_init__(self) -> None:
        _check(self, degrees=(0, 180), border=_BORDERS)

    def __call__(self, image: Array, rng: np.random.Generator) -> Array:
        """Apply the step to a picture."""
        angle = math.radians(rng.uniform(-self.degrees, self.degrees))
        cos, sin = math.cos(angle), math.sin(angle)
        return resample(image, [[cos, -sin, 0], [sin, cos, 0]], border=self.border, fill=self.fill)


@dataclass(frozen=True)
class Shear:
    """A shear of rows and one of columns, each by an angle drawn between plus and minus `degrees`.

    `border` and `fill` are as in `convlane.data.resample`.
    """

    degrees: float = 10.0
    border: str = "constant"
    fill: float = 0.0

    def __post_init__(self) -> None:
        _check(self, degrees=(0, 44), border=_BORDERS)  # two shears of 45 degrees would collapse the picture to a line

    def __call__(self, image: Array, rng: np.random.Generator) -> Array:
        """Apply the step to a picture."""
        shear_x, shear_y = (math.tan(math.radians(rng.uniform(-self.degrees, self.degrees))) for _ in range(2))
        return resample(image, [[1, shear_x, 0], [shear_y, 1, 0]], border=self.border, fill=self.fill)


@dataclass(frozen=True)
class Elastic:
    """Local warping: every pixel is displaced a little, neighbouring pixels in similar directions (Simard et al. 2003).

    Parameters
    ----------
    alpha
        The factor of the smoothed displacements. Away from the picture's edges their standard deviation is about
        ``0.16 * alpha / sigma`` pixels.
    sigma
        The standard deviation, in pixels, of the Gaussian that smooths random displacements between -1 and 1. The paper
        uses 4 for pictures of 29 pixels, with an alpha of 34.
    border, fill
        As in `convlane.data.resample`.

    References
    ----------
    Simard, Steinkraus and Platt, "Best Practices for Convolutional Neural Networks Applied to Visual Document
    Analysis", 2003.
    """

    alpha: float = 34.0
    sigma: float = 4.0
    border: str = "constant"
    fill: float = 0.0

    def __post_init__(self) -> None:
        _check(self, alpha=(0, math.inf), border=_BORDERS)
        if not 0 < self.sigma < math.inf:
            raise ValueError(f"Elastic: sigma must be positive, got {self.sigma}")

    @quiet
    def __call__(self, image: Array, rng: np.random.Generator) -> Array:
        """Apply the step to a picture."""
        image = as_picture(image, "Elastic")
        field = self.field(image.shape[1], image.shape[2], rng)
        identity = [[1, 0, 0], [0, 1, 0]]
        return resample(image, identity, field=field, border=self.border, fill=self.fill)

    def field(self, height: int, width: int, rng: np.random.Generator) -> Array:
        """Draw the displacements of x and of y: (2, height, width)."""
        noise = 2 * rng.random((2, height, width), np.float32) - 1
        reach = math.ceil(4 * self.sigma)
        weights = np.exp(-0.5 * (np.arange(-reach, reach + 1) / self.sigma) ** 2)
        kernel = (weights / weights.sum()).astype(np.float32)
        with num_threads(1):  # the loader's threads run several of these in parallel
            return _smoothed(_smoothed(noise, kernel), kernel) * np.float32(self.alpha)


@dataclass(frozen=True)
class ColorShift:
    """A random offset of each channel, between plus and minus `amount`.

    Values may leave the range from 0 to 1, which is harmless to a network.
    """

    amount: float = 0.1

    def __post_init__(self) -> None:
        _check(self, amount=(0, math.inf))

    @quiet
    def __call__(self, image: Array, rng: np.random.Generator) -> Array:
        """Apply the step to a picture."""
        image = as_picture(image, "ColorShift")
        shifts = rng.uniform(-self.amount, self.amount, (len(image), 1, 1))
        return image + shifts.astype(np.float32)


@dataclass(frozen=True)
class ColorJitter:
    """Changes of brightness, contrast and saturation, in this order, by random factors between 1 - x and 1 + x.

    Brightness scales the picture, contrast its difference from the mean grey, and saturation that of every pixel from
    its own grey. Saturation needs three channels.
    """

    brightness: float = 0.0
    contrast: float = 0.0
    saturation: float = 0.0

    def __post_init__(self) -> None:
        _check(self, brightness=(0, 1), contrast=(0, 1), saturation=(0, 1))

    @quiet
    def __call__(self, image: Array, rng: np.random.Generator) -> Array:
        """Apply the step to a picture."""
        image = as_picture(image, "ColorJitter")
        brightness, contrast, saturation = (
            np.float32(rng.uniform(1 - by, 1 + by)) for by in (self.brightness, self.contrast, self.saturation)
        )
        image = image * brightness
        mean = _grey(image).mean(dtype=np.float32)
        image = mean + contrast * (image - mean)
        if len(image) == 3:
            grey = _grey(image)
            image = grey + saturation * (image - grey)
        return image


@dataclass(frozen=True)
class PCAColor:
    """Colours shifted along the principal components of a data set's colours (AlexNet's augmentation).

    To every pixel of a picture, ``sum_i a_i * eigenvalues[i] * eigenvectors[i]`` is added, where the a_i are
    drawn for each picture from a normal distribution of standard deviation `std`. `fit` finds the components.

    Examples
    --------
    >>> import numpy as np
    >>> from convlane.data import augment
    >>> pictures = np.random.default_rng(0).random((8, 3, 16, 16)).astype(np.float32)
    >>> step = augment.PCAColor.fit(pictures, std=0.1)
    >>> step(pictures[0], np.random.default_rng(1)).shape
    (3, 16, 16)

    References
    ----------
    Krizhevsky, Sutskever and Hinton, "ImageNet Classification with Deep Convolutional Neural Networks", 2012,
    section 4.1. As in the paper's text, the components are scaled by the eigenvalues themselves.
    """

    eigenvalues: tuple[float, ...]
    eigenvectors: tuple[tuple[float, ...], ...]
    std: float = 0.1

    def __post_init__(self) -> None:
        _check(self, std=(0, math.inf))
        count = len(self.eigenvalues)
        if count == 0 or len(self.eigenvectors) != count or any(len(vector) != count for vector in self.eigenvectors):
            raise ValueError("PCAColor: there must be as many eigenvectors as eigenvalues, each of that length")

    @classmethod
    def fit(cls, images: Iterable[Array], std: float = 0.1) -> PCAColor:
        """Find the principal components of the colours of all pixels of all images.

        Parameters
        ----------
        images
            Pictures (C, H, W), float32 or uint8, of any sizes, or an array (N, C, H, W). They are read once.
        std
            As in the class.
        """
        return cls(*_components(images), std=std)

    @quiet
    def __call__(self, image: Array, rng: np.random.Generator) -> Array:
        """Apply the step to a picture."""
        image = as_picture(image, "PCAColor")
        if len(image) != len(self.eigenvalues):
            raise ValueError(f"PCAColor: made for {len(self.eigenvalues)} channels, got an image of {len(image)}")
        amounts = rng.normal(0, self.std, len(self.eigenvalues)) * np.array(self.eigenvalues)
        shift = (amounts[:, None] * np.array(self.eigenvectors)).sum(axis=0)
        return image + shift.astype(np.float32)[:, None, None]  # type: ignore[no-any-return]


@dataclass(frozen=True)
class Normalize:
    """``(image - mean) / std`` for every channel; nothing is random.

    Examples
    --------
    >>> import numpy as np
    >>> from convlane.data import augment
    >>> augment.Normalize((0.5,), (0.25,))(np.ones((1, 1, 1), np.float32), np.random.default_rng(0))
    array([[[2.]]], dtype=float32)
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]

    def __post_init__(self) -> None:
        if len(self.mean) != len(self.std) or not all(0 < value < math.inf for value in self.std):
            raise ValueError("Normalize: mean and std must have one number for each channel, those of std positive")

    @quiet
    def __call__(self, image: Array, rng: np.random.Generator | None = None) -> Array:
        """Apply the step to a picture."""
        image = as_picture(image, "Normalize")
        if len(image) != len(self.mean):
            raise ValueError(f"Normalize: made for {len(self.mean)} channels, got an image of {len(image)}")
        mean, std = (np.array(values, np.float32)[:, None, None] for values in (self.mean, self.std))
        return (image - mean) / std


@quiet
def _components(images: Iterable[Array]) -> tuple[tuple[float, ...], tuple[tuple[float, ...], ...]]:
    """Return eigenvalues, the largest first, and eigenvectors of the colours' covariance."""
    pixels, total, products = 0, np.zeros(0), np.zeros((0, 0))
    for image in images:
        picture = as_picture(image, "PCAColor.fit")
        colours = picture.reshape(len(picture), -1).astype(np.float64)
        if pixels and len(colours) != len(total):
            raise ValueError(
                f"PCAColor.fit: images must have equally many channels, got {len(total)} and {len(colours)}"
            )
        pixels += colours.shape[1]
        total = total + colours.sum(axis=1) if total.size else colours.sum(axis=1)
        products = products + colours @ colours.T if products.size else colours @ colours.T
    if pixels == 0:
        raise ValueError("PCAColor.fit: there are no images")
    mean = total / pixels
    values, vectors = np.linalg.eigh(products / pixels - np.outer(mean, mean))
    order = np.argsort(values)[::-1]
    signs = np.where(vectors[np.abs(vectors).argmax(axis=0), np.arange(len(mean))] < 0, -1, 1)  # LAPACK's signs vary
    columns = (vectors * signs)[:, order]
    return tuple(np.maximum(values[order], 0).tolist()), tuple(tuple(column) for column in columns.T.tolist())


def _cut(image: Array, top: int, left: int, height: int, width: int, border: str, fill: float) -> Array:
    """Return a crop that may extend beyond the picture."""
    rows, columns = np.arange(top, top + height), np.arange(left, left + width)
    if border == "constant":
        part = np.full((len(image), height, width), fill, np.float32)
        y, x = (
            np.flatnonzero((indices >= 0) & (indices < size))
            for indices, size in zip((rows, columns), image.shape[1:], strict=True)
        )
        part[:, y[:, None], x] = image[:, rows[y][:, None], columns[x]]
        return part
    y, x = (_folded(indices, size, border) for indices, size in zip((rows, columns), image.shape[1:], strict=True))
    return image[:, y[:, None], x]


def _folded(indices: NDArray[Any], size: int, border: str) -> NDArray[Any]:
    if border == "reflect" and size > 1:
        indices = np.abs(indices) % (2 * size - 2)
        indices = np.minimum(indices, 2 * size - 2 - indices)
    return np.minimum(np.maximum(indices, 0), size - 1)  # type: ignore[no-any-return]


def _smoothed(field: Array, kernel: Array) -> Array:
    """Return (2, W, H) for a field (2, H, W) smoothed along H; columns are channels, so that they fill vectors."""
    columns = field.transpose(0, 2, 1)[..., None]
    width = columns.shape[1]
    weight = np.broadcast_to(kernel[:, None], (width, 1, len(kernel), 1))
    return conv2d(columns, weight, padding=(len(kernel) // 2, 0), groups=width)[..., 0]


def _grey(image: Array) -> Array:
    """Return the picture's luminance (1, H, W)."""
    weights = _LUMA if len(image) == 3 else np.full(len(image), 1 / len(image), np.float32)
    return (image * weights[:, None, None]).sum(axis=0, keepdims=True)  # type: ignore[no-any-return]


_BORDERS = ("constant", "edge", "reflect")


def _check(step: Any, **bounds: Any) -> None:
    """Raise a ValueError for fields that are out of bounds, which are two numbers or the allowed strings."""
    for name, allowed in bounds.items():
        value, kind = getattr(step, name), type(step).__name__
        if isinstance(allowed[0], str):
            if value not in allowed:
                raise ValueError(f"{kind}: {name} must be one of {', '.join(allowed)}, got {value!r}")
        elif not allowed[0] <= value <= allowed[1] or math.isinf(value):
            raise ValueError(f"{kind}: {name} must be between {allowed[0]} and {allowed[1]}, got {value}")


def _check_size(step: Any, size: Any) -> None:
    if min(_pair(size)) < 1:
        raise ValueError(f"{type(step).__name__}: size must be at least 1, got {size}")


def _pair(size: int | tuple[int, int]) -> tuple[int, int]:
    return (size, size) if isinstance(size, int) else (size[0], size[1])
