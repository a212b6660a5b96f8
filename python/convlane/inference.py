"""Predictions of trained networks: the best classes of a picture, of several views of it, of several networks."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from convlane.data.picture import Picture
from convlane.data.preprocess import Preprocessing, imagenet_categories, preprocessing
from convlane.functional import softmax
from convlane.functional._arguments import Array, Pair, as_image, as_pair, as_positive
from convlane.models import registry
from convlane.nn import Module

__all__ = ["Ensemble", "Prediction", "TenCrop", "classify", "ten_crop"]

Network: TypeAlias = Callable[[Array], Any]
"""A `Module` in eval mode, a `Plan`, an `Ensemble`, a `TenCrop`: anything from images to logits (N, classes)."""


class Prediction(NamedTuple):
    """A class that a network predicts, and its probability."""

    category: str
    probability: float
    class_index: int


def classify(
    model: Network,
    picture: Picture,
    *,
    top: int = 5,
    prepare: Callable[[Any], Array] | None = None,
    categories: Sequence[str] | None = None,
) -> list[Prediction]:
    """Return the most probable classes of a picture, the best first.

    Parameters
    ----------
    model
        A network in eval mode, or anything else that returns logits (N, classes) for images; the probabilities of an
        `Ensemble` or a `TenCrop` are used as they are.
    picture
        The path of a file, a Pillow image or uint8 (3, H, W), or anything else that `prepare` takes.
    top
        The number of classes to return.
    prepare
        A function from the picture to float32 (C, H, W). By default, for networks made by `convlane.models.create`, the
        picture is prepared as for torchvision's weights (with ``keras=True``, as for Keras's); for others see
        `convlane.data.preprocessing`.
    categories
        The names of the classes; by default ImageNet's for networks with 1000 classes, else ``class 0``, ``class 1``
        and so on.

    Raises
    ------
    ValueError
        If the network is in training mode, it is not known how to prepare pictures for it, there are too few names, or
        the picture cannot be read.

    Examples
    --------
    >>> import numpy as np, convlane
    >>> model = convlane.models.create("squeezenet1_1")
    >>> picture = np.zeros((3, 240, 320), np.uint8)
    >>> best = convlane.classify(model, picture)
    >>> len(best), best[0].category in convlane.data.imagenet_categories()
    (5, True)
    """
    top = as_positive(top, "classify", "top")
    image = (_preparation(model) if prepare is None else prepare)(picture)
    probabilities = _probabilities(model, as_image(image, "classify", "the prepared picture")[0], "classify")[0]
    count = len(probabilities)
    if categories is None:
        categories = imagenet_categories() if count == 1000 else [f"class {i}" for i in range(count)]
    if len(categories) < count:
        raise ValueError(f"classify: the network has {count} classes, but there are {len(categories)} names")
    order = np.argsort(-probabilities, kind="stable")[:top].tolist()
    return [Prediction(categories[i], float(probabilities[i]), i) for i in order]


def ten_crop(images: Array, size: int | Pair) -> Array:
    """Return crops of the four corners and the centre of images, then those of the mirrored images.

    Parameters
    ----------
    images
        float32 (N, C, H, W), or one image (C, H, W).
    size
        The size of a crop: (height, width), or one number for both.

    Returns
    -------
    numpy.ndarray
        float32 (N, 10, C, height, width), or (10, C, height, width): upper left, upper right, lower left, lower right,
        centre, and these five of the mirrored image.

    Raises
    ------
    ValueError
        If an image is smaller than a crop.

    Examples
    --------
    >>> import numpy as np, convlane
    >>> convlane.ten_crop(np.arange(9, dtype=np.float32).reshape(1, 3, 3), 1).ravel()
    array([0., 2., 6., 8., 4., 2., 0., 8., 6., 4.], dtype=float32)
    """
    array, single = as_image(images, "ten_crop", "images")
    rows, columns = as_pair(size, "ten_crop", "size")
    height, width = array.shape[2:]
    if not (1 <= rows <= height and 1 <= columns <= width):
        raise ValueError(f"ten_crop: crops of {rows} x {columns} do not fit into images of {height} x {width}")
    bottom, right = height - rows, width - columns
    corners = ((0, 0), (0, right), (bottom, 0), (bottom, right), (round(bottom / 2), round(right / 2)))
    views = (array, array[..., ::-1])
    result = np.stack([view[:, :, y : y + rows, x : x + columns] for view in views for y, x in corners], axis=1)
    return result[0] if single else result


class _Averaging(ABC):
    """The base class of functions that return probabilities rather than logits."""

    @abstractmethod
    def __call__(self, images: Array) -> Array:
        """Return probabilities (N, classes) of images (N, C, H, W)."""


class TenCrop(_Averaging):
    """A network that is run on ten crops of an image and averages the probabilities (Krizhevsky et al. 2012).

    Parameters
    ----------
    model
        The network, in eval mode, or anything else that `classify` takes.
    size
        The size of the crops, see `ten_crop`.

    Examples
    --------
    >>> import numpy as np, convlane
    >>> model = convlane.TenCrop(convlane.models.create("lenet5"), 32)
    >>> model(np.zeros((2, 1, 36, 36), np.float32)).shape
    (2, 10)
    """

    def __init__(self, model: Network, size: int | Pair) -> None:
        self.model, self.size = model, as_pair(size, "TenCrop", "size")

    def __call__(self, images: Array) -> Array:
        """Return probabilities (N, classes) for images (N, C, H, W) that are at least as large as the crops."""
        crops = ten_crop(as_image(images, "TenCrop", "images")[0], self.size)
        flat = crops.reshape(-1, *crops.shape[2:])
        return _probabilities(self.model, flat, "TenCrop").reshape(len(crops), 10, -1).mean(axis=1)  # type: ignore[no-any-return]


class Ensemble(_Averaging):
    """Several networks whose probabilities are averaged.

    Parameters
    ----------
    models
        Networks in eval mode, or anything else that `classify` takes, all for the same images and classes.

    Examples
    --------
    >>> import numpy as np, convlane
    >>> ensemble = convlane.Ensemble([convlane.models.create("lenet5") for _ in range(2)])
    >>> ensemble(np.zeros((3, 1, 32, 32), np.float32)).shape
    (3, 10)
    """

    def __init__(self, models: Sequence[Network]) -> None:
        self.models = tuple(models)
        if not self.models:
            raise ValueError("Ensemble: at least one network is needed")
        for i, model in enumerate(self.models):
            if not callable(model):
                raise TypeError(f"Ensemble: models[{i}] must be a network, got {type(model).__name__}")

    def __call__(self, images: Array) -> Array:
        """Return probabilities (N, classes) for images."""
        parts = [_probabilities(model, images, "Ensemble") for model in self.models]
        if len({part.shape for part in parts}) > 1:
            raise ValueError(
                f"Ensemble: the networks have different numbers of classes: {', '.join(str(p.shape[1]) for p in parts)}"
            )
        return np.mean(parts, axis=0)  # type: ignore[no-any-return]


def _probabilities(model: Network, images: Array, caller: str) -> Array:
    """Return the probabilities (N, classes) that a network predicts for images."""
    if isinstance(model, Module) and any(module.training for module in model.modules()):
        raise ValueError(f"{caller}: the network is in training mode; call its eval() first")
    result = model(images)
    if not isinstance(result, np.ndarray) or result.ndim != 2:
        shape = getattr(result, "shape", None)
        got = type(result).__name__ if shape is None else f"the shape {shape}"
        raise ValueError(f"{caller}: the network must return logits (N, classes), got {got}")
    return result if isinstance(model, _Averaging) else softmax(result, 1)


def _preparation(model: Network) -> Preprocessing:
    architecture = registry.architecture(model) if isinstance(model, Module) else None
    if architecture is None:
        raise ValueError(
            "classify: convlane.models.create has not made this network, so it is not known how to prepare pictures; "
            "pass prepare=, for example convlane.data.preprocessing('resnet50')"
        )
    return preprocessing(architecture.name, "keras" if architecture.config.get("keras") else None)
