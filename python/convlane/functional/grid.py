"""Images and volumes sampled at the coordinates of a grid."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from convlane import _core
from convlane.functional._arguments import Array, as_array, as_positive, operand_shape
from convlane.functional._op import Pullback, Shape, op
from convlane.functional._receptive import Axis
from convlane.functional.matmul import matmul
from convlane.functional.rearrange import permute, reshape
from convlane.functional.shape import channels_last

MODES = {"bilinear": 2, "nearest": 1, "bicubic": 4}
"""The modes of interpolation, and how many pixels each reads along an axis."""

PADDING_MODES = ("zeros", "border", "reflection")


def _grid_sample_shape(
    input: Any, grid: Any, mode: Any = "bilinear", padding_mode: Any = "zeros", align_corners: Any = False
) -> Shape:
    shape, grid_shape = operand_shape(input, "grid_sample", "input"), operand_shape(grid, "grid_sample", "grid")
    if mode not in MODES:
        raise ValueError(f"grid_sample: mode must be one of {', '.join(MODES)}, got {mode!r}")
    if padding_mode not in PADDING_MODES:
        raise ValueError(f"grid_sample: padding_mode must be one of {', '.join(PADDING_MODES)}, got {padding_mode!r}")
    if not isinstance(align_corners, (bool, np.bool_)):
        raise TypeError(f"grid_sample: align_corners must be True or False, got {align_corners!r}")
    if len(shape) not in (4, 5):
        raise ValueError(f"grid_sample: input must be (N, C, H, W) or (N, C, D, H, W), got shape {shape}")
    if 0 in shape[2:]:
        raise ValueError(f"grid_sample: input {shape} is empty")
    if len(shape) == 5 and mode == "bicubic":
        raise ValueError("grid_sample: mode 'bicubic' is for images, got a volume")
    axes = len(shape) - 2
    if len(grid_shape) != len(shape) or grid_shape[0] != shape[0] or grid_shape[-1] != axes:
        sizes = ", ".join("DHW"[-axes:])
        raise ValueError(f"grid_sample: grid must be ({shape[0]}, {sizes}, {axes}) for input {shape}, got {grid_shape}")
    return (*shape[:2], *grid_shape[1:-1])


def _grid_sample_adds(output: Shape, input: Any, grid: Any, mode: Any, *args: Any, **kwargs: Any) -> int:
    return int(MODES[mode] ** (len(output) - 2)) * math.prod(output) if mode != "nearest" else 0


def _grid_sample_vjp(
    wanted: frozenset[str], input: Any, grid: Any, mode: str, padding_mode: str, align_corners: bool
) -> tuple[Array, Pullback]:
    x, coordinates = as_array(input, "grid_sample", "input"), as_array(grid, "grid_sample", "grid")
    output = grid_sample(x, coordinates, mode, padding_mode, align_corners)

    def pullback(gradient: Array) -> dict[str, Array]:
        of_input, of_grid = _core.grid_sample_gradient(
            _volumes(x),
            _grids(coordinates),
            _volumes(gradient),
            mode,
            padding_mode,
            bool(align_corners),
            "input" in wanted,
            "grid" in wanted,
        )
        found = {}
        if of_input is not None:
            found["input"] = _images(of_input, x.ndim)
        if of_grid is not None:
            found["grid"] = of_grid.reshape(coordinates.shape)
        return found

    return output, pullback


def _grid_sample_receptive(axis: Axis, name: str, *, input: Any, **arguments: Any) -> Axis:
    """Return what each pixel sees: what its coordinates depend on, and all of the image, where they may point."""
    rank = len(input.shape)
    if axis.dim is None or axis.dim % rank == 0:
        return axis
    if name == "grid":
        return axis.everywhere() if axis.dim == -1 else axis.moved(axis.dim + 1)
    return axis if axis.dim % rank == 1 else axis.everywhere()


@op(
    shape=_grid_sample_shape,
    multiply_adds=_grid_sample_adds,
    vjp=_grid_sample_vjp,
    differentiable=("input", "grid"),
    receptive=_grid_sample_receptive,
)
def grid_sample(
    input: Array, grid: Array, mode: str = "bilinear", padding_mode: str = "zeros", align_corners: bool = False
) -> Array:
    """Sample images or volumes at the coordinates of a grid.

    Parameters
    ----------
    input
        float32, (N, C, H, W) or (N, C, D, H, W).
    grid
        float32, (N, H, W, 2) or (N, D, H, W, 3) with the sizes of the result: for each of its pixels the coordinates
        (x, y) or (x, y, z) to read at, from -1 to 1 along each axis. NaN is outside the image; with
        ``"reflection"`` and ``"border"`` it reads the first pixel.
    mode
        ``"bilinear"`` (for volumes too), ``"nearest"``, or ``"bicubic"`` (Keys 1981, with a slope of -3/4; images
        only).
    padding_mode
        What is read outside the image: ``"zeros"``, the pixels at the ``"border"``, or the image's ``"reflection"``.
    align_corners
        Whether -1 and 1 are the centres of the first and the last pixel, or their outer edges.

    Returns
    -------
    numpy.ndarray
        float32, (N, C, *sizes of the grid), channels last in memory.

    Raises
    ------
    TypeError
        If an argument has the wrong type.
    ValueError
        If the shapes do not match, the image is empty, or the mode does not exist.

    Examples
    --------
    >>> import numpy as np
    >>> from convlane.functional import grid_sample
    >>> image = np.arange(4, dtype=np.float32).reshape(1, 1, 2, 2)
    >>> grid_sample(image, np.array([[[[0, 0], [-0.5, 0.5], [-1, -1]]]], np.float32))
    array([[[[1.5, 2. , 0. ]]]], dtype=float32)

    References
    ----------
    Jaderberg et al., "Spatial Transformer Networks", NIPS 2015.
    """
    x, coordinates = as_array(input, "grid_sample", "input"), as_array(grid, "grid_sample", "grid")
    _grid_sample_shape(x, coordinates, mode, padding_mode, align_corners)
    return _images(_core.grid_sample(_volumes(x), _grids(coordinates), mode, padding_mode, bool(align_corners)), x.ndim)


def _volumes(x: Array) -> Array:
    """Return images or volumes as (N, D, H, W, C) in C order."""
    if x.ndim == 4:
        return channels_last(x).transpose(0, 2, 3, 1)[:, None]
    return np.ascontiguousarray(x.transpose(0, 2, 3, 4, 1))


def _grids(grid: Array) -> Array:
    return np.ascontiguousarray(grid if grid.ndim == 5 else grid[:, None])


def _images(volumes: Array, rank: int) -> Array:
    """Return (N, D, H, W, C) as volumes (N, C, D, H, W), or as images (N, C, H, W)."""
    return np.moveaxis(volumes if rank == 5 else volumes[:, 0], -1, 1)


def affine_grid(theta: Array, size: Sequence[int], align_corners: bool = False) -> Array:
    """Return the grid with which `grid_sample` applies affine maps: rotation, scaling, shearing and translation.

    Parameters
    ----------
    theta
        float32, (N, 2, 3) or (N, 3, 4): matrices that map coordinates (x, y, 1) or (x, y, z, 1) of the result to
        those of the input to read at.
    size
        The shape of the result, (N, C, H, W) or (N, C, D, H, W).
    align_corners
        As in `grid_sample`.

    Returns
    -------
    numpy.ndarray
        float32, (N, H, W, 2) or (N, D, H, W, 3).

    Raises
    ------
    TypeError
        If an argument has the wrong type.
    ValueError
        If the shape of the matrices does not match the size.

    Examples
    --------
    >>> import numpy as np
    >>> from convlane.functional import affine_grid
    >>> mirrored = np.array([[[-1, 0, 0], [0, 1, 0]]], np.float32)
    >>> affine_grid(mirrored, (1, 1, 1, 2), align_corners=True)
    array([[[[ 1.,  0.],
             [-1.,  0.]]]], dtype=float32)

    References
    ----------
    Jaderberg et al., "Spatial Transformer Networks", NIPS 2015.
    """
    if not isinstance(size, (list, tuple)):
        raise TypeError(f"affine_grid: size must be a list or a tuple of integers, got {type(size).__name__}")
    sizes = tuple(as_positive(each, "affine_grid", "size") for each in size)
    if len(sizes) not in (4, 5):
        raise ValueError(f"affine_grid: size must be (N, C, H, W) or (N, C, D, H, W), got {sizes}")
    axes, shape = len(sizes) - 2, operand_shape(theta, "affine_grid", "theta")
    if shape != (sizes[0], axes, axes + 1):
        raise ValueError(f"affine_grid: theta must be {(sizes[0], axes, axes + 1)} for size {sizes}, got {shape}")
    coordinates = np.meshgrid(*(_evenly(length, align_corners) for length in sizes[2:]), indexing="ij")
    rows = np.stack([*coordinates[::-1], np.ones(sizes[2:])], -1).reshape(1, -1, axes + 1).astype(np.float32)
    return reshape(matmul(rows, permute(theta, (0, 2, 1))), (sizes[0], *sizes[2:], axes))


def _evenly(length: int, align_corners: bool) -> Any:
    """Return the centres of `length` pixels between -1 and 1."""
    if align_corners:
        return np.linspace(-1, 1, length) if length > 1 else np.zeros(1)
    return (2 * np.arange(length) + 1) / length - 1
