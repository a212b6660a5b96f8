"""Elements selected by their indices along a dimension."""

from __future__ import annotations

from typing import Any

from convlane import _core
from convlane.functional._arguments import Array, Indices, Tensor, as_array, as_dim, as_int, as_tensor, operand_shape
from convlane.functional._op import Pullback, Shape, int64, op, same_dtype
from convlane.functional._receptive import Axis
from convlane.functional.reduce import dense, in_memory_order


def _index(op: str, index: Any) -> Indices:
    indices = as_tensor(index, op, "index")
    if indices.dtype.kind != "i":
        raise TypeError(f"{op}: index must hold int64, got {indices.dtype}; convert it with .astype(np.int64)")
    return dense(indices)


def _index_select_shape(input: Any, dim: Any, index: Any) -> Shape:
    shape, chosen = operand_shape(input, "index_select", "input"), operand_shape(index, "index_select", "index")
    axis = as_dim(dim, "index_select", len(shape))
    if len(chosen) != 1:
        raise ValueError(f"index_select: index must have one dimension, got shape {chosen}")
    return (*shape[:axis], chosen[0], *shape[axis + 1 :])


def _index_select_vjp(wanted: frozenset[str], input: Any, dim: Any, index: Any) -> tuple[Array, Pullback]:
    shape, indices = operand_shape(input, "index_select", "input"), _index("index_select", index)
    axis = as_dim(dim, "index_select", len(shape))

    def pullback(gradient: Array) -> dict[str, Array]:
        return {"input": _core.take_gradient(dense(gradient), axis, indices, shape[axis])}

    return index_select(input, dim, indices), pullback


def _receptive(axis: Axis, name: str, *, input: Any, dim: Any, index: Any) -> Axis:
    if name == "index" or (axis.dim is not None and axis.dim % len(input.shape) == dim % len(input.shape)):
        return axis.everywhere()
    return axis


@op(
    shape=_index_select_shape,
    dtype=same_dtype,
    vjp=_index_select_vjp,
    receptive=_receptive,
)
def index_select(input: Tensor, dim: int, index: Indices) -> Tensor:
    """Select entries along a dimension by their indices.

    Parameters
    ----------
    input
        float32, int64 or bool, at most eight dimensions, any strides.
    dim
        The dimension; negative numbers count from the end.
    index
        int64, (K,), none negative. An index may occur several times; the gradients of its entry are then summed.

    Returns
    -------
    numpy.ndarray
        The shape of `input` but K along `dim`, in C order.

    Raises
    ------
    TypeError
        If an argument has the wrong type.
    ValueError
        If an index or the dimension does not exist.

    Examples
    --------
    >>> import numpy as np
    >>> from convlane.functional import index_select
    >>> index_select(np.array([[1, 2, 3], [4, 5, 6]], np.float32), 1, np.array([2, 0, 0]))
    array([[3., 1., 1.],
           [6., 4., 4.]], dtype=float32)
    """
    x, indices = as_tensor(input, "index_select", "input"), _index("index_select", index)
    _index_select_shape(x, dim, indices)
    return _core.take(dense(x), as_dim(dim, "index_select", x.ndim), indices)


def _gather_shape(input: Any, dim: Any, index: Any) -> Shape:
    shape, chosen = operand_shape(input, "gather", "input"), operand_shape(index, "gather", "index")
    axis = as_dim(dim, "gather", len(shape))
    if len(shape) != len(chosen) or any(shape[d] != chosen[d] for d in range(len(shape)) if d != axis):
        raise ValueError(f"gather: input {shape} and index {chosen} may differ along dim {axis} only")
    return chosen


def _gather_vjp(wanted: frozenset[str], input: Any, dim: Any, index: Any) -> tuple[Array, Pullback]:
    shape, indices = operand_shape(input, "gather", "input"), _index("gather", index)
    axis = as_dim(dim, "gather", len(shape))

    def pullback(gradient: Array) -> dict[str, Array]:
        return {"input": _core.take_along_gradient(dense(gradient), axis, indices, shape[axis])}

    return gather(input, dim, indices), pullback


@op(
    shape=_gather_shape,
    dtype=same_dtype,
    vjp=_gather_vjp,
    receptive=_receptive,
)
def gather(input: Tensor, dim: int, index: Indices) -> Tensor:
    """Take one element for each index: ``input[i, index[i, j]]`` for ``dim=1``, and so on.

    Parameters
    ----------
    input
        float32, int64 or bool, at least one and at most eight dimensions, any strides.
    dim
        The dimension; negative numbers count from the end.
    index
        int64, none negative, of the shape of `input` except along `dim`.

    Returns
    -------
    numpy.ndarray
        The shape of `index`, in C order.

    Raises
    ------
    TypeError
        If an argument has the wrong type.
    ValueError
        If an index or the dimension does not exist, or the shapes do not match.

    Examples
    --------
    >>> import numpy as np
    >>> from convlane.functional import gather
    >>> gather(np.array([[1, 2], [3, 4]], np.float32), 1, np.array([[1], [0]]))
    array([[2.],
           [3.]], dtype=float32)
    """
    x, indices = as_tensor(input, "gather", "input"), _index("gather", index)
    _gather_shape(x, dim, indices)
    return _core.take_along(dense(x), as_dim(dim, "gather", x.ndim), indices)


def _topk_shape(input: Any, k: Any, dim: Any = -1, largest: Any = True) -> Shape:
    shape = operand_shape(input, "topk_indices", "input")
    axis, count = as_dim(dim, "topk_indices", len(shape)), as_int(k, "topk_indices", "k")
    if not 0 <= count <= shape[axis]:
        raise ValueError(f"topk_indices: k={count} is out of range for dim {axis} of shape {shape}")
    return (*shape[:axis], count, *shape[axis + 1 :])


@op(
    shape=_topk_shape,
    dtype=int64,
    vjp="it returns indices",
    differentiable=(),
    receptive=lambda axis, name, *, input, k, dim, largest: _receptive(axis, name, input=input, dim=dim, index=None),
)
def topk_indices(input: Array, k: int, dim: int = -1, largest: bool = True) -> Indices:
    """Find the indices of the numbers that `topk` returns.

    Examples
    --------
    >>> import numpy as np
    >>> from convlane.functional import topk_indices
    >>> topk_indices(np.array([1, 5, 3], np.float32), 2)
    array([1, 2])
    """
    x = as_array(input, "topk_indices", "input")
    _topk_shape(x, k, dim, largest)
    axis = as_dim(dim, "topk_indices", x.ndim)
    return in_memory_order(lambda y, at: _core.topk(y, at, k, bool(largest))[1], (x,), axis)


def topk(input: Array, k: int, dim: int = -1, largest: bool = True) -> tuple[Array, Indices]:
    """Find the largest (smallest) numbers along a dimension, in descending (ascending) order, and their indices.

    NaN counts as larger than all numbers. Equal numbers are in the order of their indices.

    Parameters
    ----------
    input
        float32, at least one and at most eight dimensions, any strides.
    k
        How many numbers to return.
    dim
        The dimension; negative numbers count from the end.
    largest
        If false, the smallest are found.

    Returns
    -------
    values : numpy.ndarray
        float32, the shape of `input` but k along `dim`.
    indices : numpy.ndarray
        int64, the same shape.

    Raises
    ------
    TypeError
        If an argument has the wrong type.
    ValueError
        If the dimension does not exist, or has fewer than `k` numbers.

    Examples
    --------
    >>> import numpy as np
    >>> from convlane.functional import topk
    >>> topk(np.array([1, 5, 3], np.float32), 2)
    (array([5., 3.], dtype=float32), array([1, 2]))
    """
    indices = topk_indices(input, k, dim, largest)
    return gather(input, dim, indices), indices
