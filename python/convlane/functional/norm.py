"""Batch, group, instance, layer and local response normalisation, and division by norms."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from convlane import _core
from convlane._floats import quiet
from convlane.functional._arguments import (
    Array,
    as_array,
    as_dim,
    as_float,
    as_int,
    as_pixels,
    as_positive,
    is_channels_last,
    shape_of,
)
from convlane.functional._op import (
    ACTIVATIONS,
    DERIVATIVE_FROM_OUTPUT,
    Pending,
    Pullback,
    Shape,
    Traits,
    check_vector,
    op,
)
from convlane.functional._receptive import mixes, pointwise
from convlane.functional.elementwise import div, pow
from convlane.functional.functions import abs as absolute
from convlane.functional.functions import clamp, sqrt, square
from convlane.functional.reduce import amax, sum
from convlane.functional.shape import channels_last


def _batch_norm_shape(
    input: Any,
    running_mean: Any,
    running_var: Any,
    weight: Any = None,
    bias: Any = None,
    training: bool = False,
    *_: Any,
    **__: Any,
) -> Shape:
    shape = tuple(input.shape)
    if not 2 <= len(shape) <= 5:
        raise ValueError(f"batch_norm: input must be (N, C, H, W), (N, C), (N, C, L) or (N, C, D, H, W), got {shape}")
    vectors = {"running_mean": running_mean, "running_var": running_var, "weight": weight, "bias": bias}
    for name, vector in vectors.items():
        check_vector("batch_norm", name, vector, shape[1], shape)
    if not training:
        _check_present("batch_norm", running_mean, running_var)
    return shape


def _layer_norm_shape(
    input: Any, normalized_shape: Sequence[int], weight: Any = None, bias: Any = None, *_: Any, **__: Any
) -> Shape:
    return _last_dims_shape("layer_norm", input, normalized_shape, weight=weight, bias=bias)


def _rms_norm_shape(input: Any, normalized_shape: Sequence[int], weight: Any = None, *_: Any, **__: Any) -> Shape:
    return _last_dims_shape("rms_norm", input, normalized_shape, weight=weight)


def _last_dims_shape(op: str, input: Any, normalized_shape: Sequence[int], **vectors: Any) -> Shape:
    shape = tuple(input.shape)
    if not isinstance(normalized_shape, (list, tuple)):
        kind = type(normalized_shape).__name__
        raise TypeError(f"{op}: normalized_shape must be a list or a tuple, got {kind}")
    sizes = tuple(as_positive(size, op, "normalized_shape") for size in normalized_shape)
    if not sizes or shape[-len(sizes) :] != sizes:
        raise ValueError(f"{op}: shape {shape} does not end in normalized_shape={sizes}")
    for name, vector in vectors.items():
        if vector is not None and tuple(vector.shape) != sizes:
            raise ValueError(f"{op}: {name} must have shape {sizes}, got {tuple(vector.shape)}")
    return shape


def _group_norm_shape(input: Any, num_groups: int, weight: Any = None, bias: Any = None, *_: Any, **__: Any) -> Shape:
    shape = _signal_shape("group_norm", input, weight=weight, bias=bias)
    if shape[1] % as_positive(num_groups, "group_norm", "num_groups"):
        raise ValueError(f"group_norm: num_groups={num_groups} does not divide the channels of shape {shape}")
    return shape


def _instance_norm_shape(
    input: Any,
    running_mean: Any = None,
    running_var: Any = None,
    weight: Any = None,
    bias: Any = None,
    use_input_stats: bool = True,
    *_: Any,
    **__: Any,
) -> Shape:
    vectors = {"running_mean": running_mean, "running_var": running_var, "weight": weight, "bias": bias}
    shape = _signal_shape("instance_norm", input, **vectors)
    if not use_input_stats:
        _check_present("instance_norm", running_mean, running_var)
    elif math.prod(shape[2:]) == 1:
        raise ValueError(f"instance_norm: statistics need more than 1 value per channel, got input shape {shape}")
    return shape


def _signal_shape(op: str, input: Any, **vectors: Any) -> Shape:
    shape = tuple(input.shape)
    if len(shape) < 2:
        raise ValueError(f"{op}: input must be (N, C, ...), got shape {shape}")
    for name, vector in vectors.items():
        check_vector(op, name, vector, shape[1], shape)
    return shape


def _channel_norm_shape(input: Any, weight: Any = None, bias: Any = None, *_: Any, **__: Any) -> Shape:
    shape = tuple(input.shape)
    if len(shape) not in (2, 4):
        raise ValueError(f"channel_norm: input must be (N, C, H, W) or (N, C), got shape {shape}")
    check_vector("channel_norm", "weight", weight, shape[1], shape)
    check_vector("channel_norm", "bias", bias, shape[1], shape)
    return shape


def _local_response_shape(input: Any, *args: Any, **kwargs: Any) -> Shape:
    shape = tuple(input.shape)
    if len(shape) != 4:
        raise ValueError(f"local_response_norm: input must be (N, C, H, W), got shape {shape}")
    return shape


def _layer_norm_dims(normalized_shape: Sequence[int], **_: Any) -> Sequence[int]:
    return range(-len(normalized_shape), 0)


def _signal_dims(input: Any, use_input_stats: bool = True, **_: Any) -> Sequence[int]:
    return range(2 - len(input.shape), 0) if use_input_stats else ()


_VECTORS = frozenset({"weight", "bias"})


class _Normalised(Pending):
    """Batch norm's output, with which an activation, or an addition and its activation, can be fused."""

    def __init__(
        self,
        image: Array,
        moments: tuple[NDArray[np.float64], NDArray[np.float64]],
        weight: Array | None,
        bias: Array | None,
        eps: float,
        training: bool,
        wanted: frozenset[str],
        shape: Shape,
    ) -> None:
        self.shape = shape
        self._image, self._arguments = image, (*moments, weight, bias, eps)
        self._training, self._wanted = training, wanted

    def compute(self) -> Array:
        return self._with("none", 0.0)[0].reshape(self.shape)

    def pullback(self, gradient: Array) -> dict[str, Array]:
        return self._back(gradient, "none", 0.0)

    def then(
        self, operation: str, arguments: Mapping[str, Any], wanted: frozenset[str]
    ) -> tuple[Array, Pullback] | None:
        if operation in ACTIVATIONS:
            output, pullback = self._with(*ACTIVATIONS[operation](arguments))
            return output.reshape(self.shape), pullback
        if operation != "add":
            return None
        slope = as_float(arguments["negative_slope"], operation, "negative_slope")
        name, other = next((name, a) for name, a in arguments.items() if name in ("input", "other") and a is not self)
        residual = as_array(other, "add", name)
        if residual.shape != self.shape:
            raise ValueError(f"add: the arrays have shapes {self.shape} and {residual.shape}")
        residual_name = f"add.{name}" if wanted else ""
        output, pullback = self._with(arguments["activation"], slope, as_pixels(residual), residual_name)
        return output.reshape(self.shape), pullback

    def _with(
        self, activation: str, slope: float, residual: Array | None = None, residual_name: str = ""
    ) -> tuple[Array, Pullback]:
        output = _core.batch_norm_apply(self._image, *self._arguments, activation, slope, residual)
        kept: dict[str, Any] = {}  # with a residual: what the activation's derivative is computed from
        if residual is not None:
            kept = {"output": output} if activation in DERIVATIVE_FROM_OUTPUT else {"residual": residual}
        return output, lambda gradient: self._back(gradient, activation, slope, kept, residual_name)

    def _back(
        self,
        gradient: Array,
        activation: str,
        slope: float,
        kept: Mapping[str, Any] | None = None,
        residual_name: str = "",
    ) -> dict[str, Array]:
        image = self._image
        activated = activation != "none"
        *found, of_residual = _core.batch_norm_gradient(
            image,
            gradient.reshape(image.shape),
            *self._arguments,
            activation,
            slope,
            **(kept or {}) if activated else {},
            training=self._training,
            of_input="input" in self._wanted,
            of_vectors=not self._wanted.isdisjoint({"weight", "bias"}),
            of_residual=bool(residual_name) and activated,
        )
        gradients: dict[str, Any] = dict(zip(("input", "weight", "bias"), found, strict=True))
        if "input" in self._wanted:
            gradients["input"] = gradients["input"].reshape(self.shape)
        wanted = {name: gradients[name] for name in self._wanted}
        if residual_name:
            wanted[residual_name] = gradient if of_residual is None else of_residual.reshape(self.shape)
        return wanted


def _batch_norm_vjp(
    wanted: frozenset[str],
    input: Any,
    running_mean: Any,
    running_var: Any,
    weight: Any,
    bias: Any,
    training: bool,
    momentum: float,
    eps: float,
) -> tuple[Pending, Pullback]:
    x, image, weight, bias, eps = _checked(input, weight, bias, eps)
    if training:
        _check_trainable(running_mean, running_var, image)
        moments = _core.batch_norm_moments(image)
        _move_running("batch_norm", running_mean, running_var, _values(image), moments, momentum)
    else:
        _check_present("batch_norm", running_mean, running_var)
        mean = as_array(running_mean, "batch_norm", "running_mean")
        var = as_array(running_var, "batch_norm", "running_var")
        moments = (mean.astype(np.float64), var.astype(np.float64))
    output = _Normalised(image, moments, weight, bias, eps, training, wanted, x.shape)
    return output, output.pullback


@op(
    shape=_batch_norm_shape,
    vjp=_batch_norm_vjp,
    differentiable=("input", "weight", "bias"),
    traits=Traits(in_place=True, parameters=_VECTORS | {"running_mean", "running_var"}),
    receptive=pointwise,
)
def batch_norm(
    input: Array,
    running_mean: Array | None,
    running_var: Array | None,
    weight: Array | None = None,
    bias: Array | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Array:
    """Normalise every channel: ``(x - mean) / sqrt(var + eps) * weight + bias``.

    In training, mean and (biased) variance are those of the batch, and the running statistics are moved towards them:
    ``running = (1 - momentum) * running + momentum * batch``. The running variance uses the unbiased variance, which is
    n / (n - 1) times as large, as in torch. The statistics are summed in an order that depends only on the shape.

    Parameters
    ----------
    input
        float32, (N, C, H, W), (N, C), (N, C, L) or (N, C, D, H, W).
    running_mean, running_var
        float32, (C,). In training they are updated in place and may be None.
    weight, bias
        float32, (C,); 1 and 0 if not given.
    training
        Whether to normalise with the statistics of this batch instead of the running ones.
    momentum
        The weight of the batch in the running statistics.
    eps
        Added to the variance.

    Returns
    -------
    numpy.ndarray
        float32, the shape of `input`, channels last in memory. A negative variance gives NaN.

    Raises
    ------
    TypeError
        If an argument has the wrong type or, in training, running statistics cannot be updated in place.
    ValueError
        If the shapes do not match, running statistics are missing or read-only, or there is a single value per channel
        in training.

    Examples
    --------
    >>> import numpy as np
    >>> from convlane.functional import batch_norm
    >>> x = np.array([[1], [3]], np.float32)
    >>> mean, var = np.zeros(1, np.float32), np.ones(1, np.float32)
    >>> batch_norm(x, mean, var, training=True, eps=0)
    array([[-1.],
           [ 1.]], dtype=float32)
    >>> mean, var
    (array([0.2], dtype=float32), array([1.1], dtype=float32))

    References
    ----------
    Ioffe, Szegedy, "Batch normalization", ICML 2015. Chan, Golub, LeVeque, "Algorithms for computing the sample
    variance", The American Statistician 37, 1983.
    """
    x, image, weight, bias, eps = _checked(input, weight, bias, eps)
    if training:
        _check_trainable(running_mean, running_var, image)
        y, *moments = _core.batch_norm_train(image, weight, bias, eps)
        _move_running("batch_norm", running_mean, running_var, _values(image), moments, momentum)
    else:
        _check_present("batch_norm", running_mean, running_var)
        mean = as_array(running_mean, "batch_norm", "running_mean")
        check_vector("batch_norm", "running_mean", mean, x.shape[1], x.shape)
        y = _core.batch_norm(image, mean, as_array(running_var, "batch_norm", "running_var"), weight, bias, eps)
    return y.reshape(x.shape)


def _rows_vjp(
    wanted: frozenset[str],
    rows: Array,
    weight: Array | None,
    bias: Array | None,
    eps: float,
    *,
    centered: bool = True,
) -> tuple[Array, Pullback]:
    """Normalise images over their channels; the pullback returns gradients in the shapes of images and vectors."""
    vectors = not wanted.isdisjoint({"weight", "bias"})

    def pullback(gradient: Array) -> dict[str, Any]:
        found = _core.layer_norm_gradient(rows, gradient, weight, eps, centered, "input" in wanted, vectors)
        return {name: part for name, part in zip(("input", "weight", "bias"), found, strict=True) if name in wanted}

    return _core.layer_norm(rows, weight, bias, eps, centered), pullback


def _layer_norm_vjp(
    wanted: frozenset[str], input: Any, normalized_shape: Any, weight: Any, bias: Any, eps: Any
) -> tuple[Array, Pullback]:
    x, rows, weight, bias = _as_rows("layer_norm", input, normalized_shape, weight, bias)
    eps = as_float(eps, "layer_norm", "eps")
    return _of_last_dims(x, normalized_shape, *_rows_vjp(wanted, rows, weight, bias, eps))


def _rms_norm_vjp(
    wanted: frozenset[str], input: Any, normalized_shape: Any, weight: Any, eps: Any
) -> tuple[Array, Pullback]:
    x, rows, weight, _ = _as_rows("rms_norm", input, normalized_shape, weight)
    back = _rows_vjp(wanted, rows, weight, None, _rms_eps(eps), centered=False)
    return _of_last_dims(x, normalized_shape, *back)


def _of_last_dims(x: Array, normalized_shape: Any, rows: Array, back: Pullback) -> tuple[Array, Pullback]:
    """Return the output and the pullback of an array from those of its rows."""

    def pullback(gradient: Array) -> dict[str, Any]:
        shapes = {"input": x.shape, "weight": tuple(normalized_shape), "bias": tuple(normalized_shape)}
        found = back(np.ascontiguousarray(gradient).reshape(rows.shape))
        return {name: part.reshape(shapes[name]) for name, part in found.items()}

    return _from_rows(rows, x), pullback


def _channel_norm_vjp(wanted: frozenset[str], input: Any, weight: Any, bias: Any, eps: Any) -> tuple[Array, Pullback]:
    x, image, weight, bias, eps = _as_pixels(input, weight, bias, eps)
    output, back = _rows_vjp(wanted, image, weight, bias, eps)

    def pullback(gradient: Array) -> dict[str, Any]:
        found = dict(back(gradient.reshape(image.shape)))
        return found | ({"input": found["input"].reshape(x.shape)} if "input" in found else {})

    return output.reshape(x.shape), pullback


@op(
    shape=_layer_norm_shape,
    vjp=_layer_norm_vjp,
    differentiable=("input", "weight", "bias"),
    traits=Traits(in_place=True, parameters=_VECTORS),
    receptive=mixes(_layer_norm_dims),
)
def layer_norm(
    input: Array,
    normalized_shape: Sequence[int],
    weight: Array | None = None,
    bias: Array | None = None,
    eps: float = 1e-5,
) -> Array:
    """Normalise over the last dimensions: ``(x - mean) / sqrt(var + eps) * weight + bias``, with the biased variance.

    Parameters
    ----------
    input
        float32, any shape. To normalise images over their channels, use `channel_norm`.
    normalized_shape
        The sizes of the last dimensions, which share a mean and a variance.
    weight, bias
        float32, of shape `normalized_shape`; 1 and 0 if not given.
    eps
        Added to the variance.

    Returns
    -------
    numpy.ndarray
        float32, the shape of `input`; channels last in memory if that has four dimensions, else C-contiguous.

    Raises
    ------
    TypeError
        If an argument has the wrong type.
    ValueError
        If the shapes do not match.

    Examples
    --------
    >>> import numpy as np
    >>> from convlane.functional import layer_norm
    >>> layer_norm(np.array([[1, 3], [10, 30]], np.float32), (2,), eps=0)
    array([[-1.,  1.],
           [-1.,  1.]], dtype=float32)

    References
    ----------
    Ba, Kiros, Hinton, "Layer normalization", arXiv 1607.06450, 2016.
    """
    x, rows, weight, bias = _as_rows("layer_norm", input, normalized_shape, weight, bias)
    return _from_rows(_core.layer_norm(rows, weight, bias, as_float(eps, "layer_norm", "eps")), x)


@op(
    shape=_rms_norm_shape,
    vjp=_rms_norm_vjp,
    differentiable=("input", "weight"),
    traits=Traits(in_place=True, parameters=frozenset({"weight"})),
    receptive=mixes(_layer_norm_dims),
)
def rms_norm(
    input: Array, normalized_shape: Sequence[int], weight: Array | None = None, eps: float | None = None
) -> Array:
    """Divide by the root of the mean square over the last dimensions: ``x / sqrt(mean(x**2) + eps) * weight``.

    Parameters
    ----------
    input, normalized_shape
        As in `layer_norm`.
    weight
        float32, of shape `normalized_shape`; 1 if not given.
    eps
        Added to the mean square; None means the distance from 1 to the next float32.

    Returns
    -------
    numpy.ndarray
        As in `layer_norm`.

    Raises
    ------
    TypeError
        If an argument has the wrong type.
    ValueError
        If the shapes do not match.

    Examples
    --------
    >>> import numpy as np
    >>> from convlane.functional import rms_norm
    >>> rms_norm(np.array([[1, 7]], np.float32), (2,), eps=0)
    array([[0.2, 1.4]], dtype=float32)

    References
    ----------
    Zhang, Sennrich, "Root mean square layer normalization", NeurIPS 2019.
    """
    x, rows, weight, _ = _as_rows("rms_norm", input, normalized_shape, weight)
    return _from_rows(_core.layer_norm(rows, weight, None, _rms_eps(eps), False), x)


@op(
    shape=_channel_norm_shape,
    vjp=_channel_norm_vjp,
    differentiable=("input", "weight", "bias"),
    traits=Traits(in_place=True, parameters=_VECTORS),
    receptive=pointwise,
)
def channel_norm(input: Array, weight: Array | None = None, bias: Array | None = None, eps: float = 1e-5) -> Array:
    """Normalise every pixel over its channels: `layer_norm` of images, torchvision's ``LayerNorm2d``.

    Parameters
    ----------
    input
        float32, (N, C, H, W) or (N, C).
    weight, bias
        float32, (C,); 1 and 0 if not given.
    eps
        Added to the variance.

    Returns
    -------
    numpy.ndarray
        float32, the shape of `input`, channels last in memory.

    Raises
    ------
    TypeError
        If an argument has the wrong type.
    ValueError
        If the shapes do not match.

    Examples
    --------
    >>> import numpy as np
    >>> from convlane.functional import channel_norm
    >>> channel_norm(np.array([5, 9], np.float32).reshape(1, 2, 1, 1), eps=0).ravel()
    array([-1.,  1.], dtype=float32)
    """
    x, image, weight, bias, eps = _as_pixels(input, weight, bias, eps)
    return _core.layer_norm(image, weight, bias, eps).reshape(x.shape)


def _as_rows(
    op: str, input: Any, normalized_shape: Any, weight: Any, bias: Any = None
) -> tuple[Array, Array, Array | None, Array | None]:
    """Return the input, its rows as images of one pixel, whose channels are normalised, and the vectors."""
    x = as_array(input, op, "input")
    vectors = {
        name: None if vector is None else as_array(vector, op, name)
        for name, vector in (("weight", weight), ("bias", bias))
    }
    _last_dims_shape(op, x, normalized_shape, **vectors)
    size = math.prod(normalized_shape)
    rows = np.ascontiguousarray(x).reshape(math.prod(x.shape[: x.ndim - len(normalized_shape)]), size, 1, 1)
    weight, bias = (None if vector is None else vector.reshape(size) for vector in vectors.values())
    return x, rows, weight, bias


def _rms_eps(eps: Any) -> float:
    return float(np.finfo(np.float32).eps) if eps is None else as_float(eps, "rms_norm", "eps")


def _from_rows(rows: Array, x: Array) -> Array:
    y = rows.reshape(x.shape)
    return channels_last(y) if x.ndim == 4 else y


def _as_pixels(input: Any, weight: Any, bias: Any, eps: Any) -> tuple[Array, Array, Array | None, Array | None, float]:
    """Return channel norm's input, that input as an image, and the other arguments."""
    x = as_array(input, "channel_norm", "input")
    weight = None if weight is None else as_array(weight, "channel_norm", "weight")
    bias = None if bias is None else as_array(bias, "channel_norm", "bias")
    _channel_norm_shape(x, weight, bias)
    image = x if x.ndim == 4 else x[:, :, None, None]
    return x, image, weight, bias, as_float(eps, "channel_norm", "eps")


def _as_signals(x: Array) -> Array:
    """Return channels-last arrays, and images not in C order, as images; all others in C order as (N, C, L)."""
    return as_pixels(x) if is_channels_last(x) or (x.ndim == 4 and not x.flags.c_contiguous) else _in_c_order(x)


def _in_c_order(x: Array) -> Array:
    return np.ascontiguousarray(x).reshape(*x.shape[:2], math.prod(x.shape[2:]))


def _groups_vjp(
    wanted: frozenset[str], x: Array, groups: int, weight: Array | None, bias: Array | None, eps: float
) -> tuple[Array, Pullback, Sequence[Any]]:
    """Normalise groups of channels; also return the means and variances of the groups."""
    signals, vectors = _as_signals(x), not wanted.isdisjoint({"weight", "bias"})
    output, mean, var = _core.group_norm(signals, groups, weight, bias, eps)

    def pullback(gradient: Array) -> dict[str, Any]:
        of_input, of_output = "input" in wanted, as_pixels(gradient) if signals.ndim == 4 else _in_c_order(gradient)
        found = _core.group_norm_gradient(signals, of_output, groups, mean, var, weight, eps, of_input, vectors)
        gradients: dict[str, Any] = dict(zip(("input", "weight", "bias"), found, strict=True))
        if of_input:
            gradients["input"] = gradients["input"].reshape(x.shape)
        return {name: gradients[name] for name in wanted}

    return output.reshape(x.shape), pullback, (mean, var)


def _as_channel_vectors(op: str, weight: Any, bias: Any) -> tuple[Array | None, Array | None]:
    return (
        None if weight is None else as_array(weight, op, "weight"),
        None if bias is None else as_array(bias, op, "bias"),
    )


def _group_norm_vjp(
    wanted: frozenset[str], input: Any, num_groups: Any, weight: Any, bias: Any, eps: Any
) -> tuple[Array, Pullback]:
    x = as_array(input, "group_norm", "input")
    weight, bias = _as_channel_vectors("group_norm", weight, bias)
    _group_norm_shape(x, num_groups, weight, bias)
    return _groups_vjp(wanted, x, int(num_groups), weight, bias, as_float(eps, "group_norm", "eps"))[:2]


@op(
    shape=_group_norm_shape,
    vjp=_group_norm_vjp,
    differentiable=("input", "weight", "bias"),
    traits=Traits(in_place=True, parameters=_VECTORS),
    receptive=mixes(_signal_dims),
)
def group_norm(
    input: Array, num_groups: int, weight: Array | None = None, bias: Array | None = None, eps: float = 1e-5
) -> Array:
    """Normalise groups of channels of every image: ``(x - mean) / sqrt(var + eps) * weight + bias``.

    Mean and (biased) variance are those of one group of neighbouring channels, over all positions. They are summed in
    an order that depends only on the shape of one image.

    Parameters
    ----------
    input
        float32, (N, C, ...). C order and channels last are read without a copy.
    num_groups
        How many groups the channels are divided into.
    weight, bias
        float32, (C,); 1 and 0 if not given.
    eps
        Added to the variance.

    Returns
    -------
    numpy.ndarray
        float32, the shape of `input`; channels last in memory if that is, or is an image not in C order; else
        C-contiguous.

    Raises
    ------
    TypeError
        If an argument has the wrong type.
    ValueError
        If the shapes do not match, or the number of groups does not divide the number of channels.

    Examples
    --------
    >>> import numpy as np
    >>> from convlane.functional import group_norm
    >>> group_norm(np.array([[1, 3, 10, 30]], np.float32), 2, eps=0)
    array([[-1.,  1., -1.,  1.]], dtype=float32)

    References
    ----------
    Wu, He, "Group normalization", ECCV 2018.
    """
    return _group_norm_vjp(frozenset(), input, num_groups, weight, bias, eps)[0]


def _instance_norm_vjp(
    wanted: frozenset[str],
    input: Any,
    running_mean: Any,
    running_var: Any,
    weight: Any,
    bias: Any,
    use_input_stats: Any,
    momentum: Any,
    eps: Any,
) -> tuple[Array, Pullback]:
    op = "instance_norm"
    x, eps = as_array(input, op, "input"), as_float(eps, op, "eps")
    weight, bias = _as_channel_vectors(op, weight, bias)
    _instance_norm_shape(x, None, None, weight, bias)
    if use_input_stats:
        _check_updatable(op, running_mean, running_var, x.shape[1])
        output, pullback, moments = _groups_vjp(wanted, x, x.shape[1], weight, bias, eps)
        if x.size and not (running_mean is None and running_var is None):
            of_batch = [moment.mean(axis=0) for moment in moments]
            _move_running(op, running_mean, running_var, math.prod(x.shape[2:]), of_batch, momentum)
        return output, pullback
    _check_present(op, running_mean, running_var)
    mean, var = as_array(running_mean, op, "running_mean"), as_array(running_var, op, "running_var")
    _instance_norm_shape(x, mean, var, weight, bias, False)
    statistics = (mean.astype(np.float64), var.astype(np.float64))
    normalised = _Normalised(as_pixels(x), statistics, weight, bias, eps, False, wanted, x.shape)
    return normalised.compute(), normalised.pullback


@op(
    shape=_instance_norm_shape,
    vjp=_instance_norm_vjp,
    differentiable=("input", "weight", "bias"),
    traits=Traits(in_place=True, parameters=_VECTORS | {"running_mean", "running_var"}),
    receptive=mixes(_signal_dims),
)
def instance_norm(
    input: Array,
    running_mean: Array | None = None,
    running_var: Array | None = None,
    weight: Array | None = None,
    bias: Array | None = None,
    use_input_stats: bool = True,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Array:
    """Normalise every channel of every image: `group_norm` with groups of one channel.

    Parameters
    ----------
    input
        As in `group_norm`.
    running_mean, running_var
        float32, (C,), or None. If the input's own statistics are used, these are updated in place as in `batch_norm`,
        with the mean of the statistics over the images.
    weight, bias
        float32, (C,); 1 and 0 if not given.
    use_input_stats
        Whether to normalise with each image's own statistics instead of the running ones.
    momentum
        The weight of the batch in the running statistics.
    eps
        Added to the variance.

    Returns
    -------
    numpy.ndarray
        As in `group_norm`; with running statistics as in `batch_norm`.

    Raises
    ------
    TypeError
        If an argument has the wrong type, or running statistics cannot be updated in place.
    ValueError
        If the shapes do not match, running statistics are missing or read-only, or there is a single value per channel
        to compute statistics of.

    Examples
    --------
    >>> import numpy as np
    >>> from convlane.functional import instance_norm
    >>> instance_norm(np.array([[[1, 3], [10, 30]]], np.float32), eps=0)
    array([[[-1.,  1.],
            [-1.,  1.]]], dtype=float32)

    References
    ----------
    Ulyanov, Vedaldi, Lempitsky, "Instance normalization: the missing ingredient for fast stylization",
    arXiv 1607.08022, 2016.
    """
    return _instance_norm_vjp(
        frozenset(), input, running_mean, running_var, weight, bias, use_input_stats, momentum, eps
    )[0]


def normalize(input: Array, p: float = 2.0, dim: int | tuple[int, ...] = 1, eps: float = 1e-12) -> Array:
    """Divide by the p-norm along dimensions, or by `eps` if the norm is smaller.

    Parameters
    ----------
    input
        float32, any shape.
    p
        The exponent of the norm, above 0: ``sum(abs(x) ** p) ** (1 / p)``; for infinity it is the largest ``abs(x)``.
        Norms are accurate down to the p-th root of the smallest normal number.
    dim
        One dimension or several; negative numbers count from the end.
    eps
        The smallest divisor.

    Returns
    -------
    numpy.ndarray
        float32, the shape of `input`; order in memory as in `add`.

    Raises
    ------
    TypeError
        If an argument has the wrong type.
    ValueError
        If `dim` is out of range, `p` is not positive or `eps` is negative.

    Examples
    --------
    >>> import numpy as np
    >>> from convlane.functional import normalize
    >>> normalize(np.array([[3, 4], [0, 0]], np.float32))
    array([[0.6, 0.8],
           [0. , 0. ]], dtype=float32)
    """
    dimensions = len(shape_of(input, "normalize"))
    for one in dim if isinstance(dim, (tuple, list)) else () if dim is None else (dim,):
        as_dim(one, "normalize", dimensions)
    order, least = as_float(p, "normalize", "p"), as_float(eps, "normalize", "eps")
    if not order > 0:
        raise ValueError(f"normalize: p must be above 0, got {order}")
    if not least >= 0:
        raise ValueError(f"normalize: eps must not be negative, got {least}")
    if math.isinf(order):
        return div(input, clamp(amax(absolute(input), dim, keepdim=True), min=least))
    if order == 1:
        return div(input, clamp(sum(absolute(input), dim, keepdim=True), min=least))
    # The root has no gradient at 0.
    powers = square(input) if order == 2 else pow(absolute(input), order)
    total = clamp(sum(powers, dim, keepdim=True), min=max(least**order, float(np.finfo(np.float32).tiny)))
    return div(input, sqrt(total) if order == 2 else pow(total, 1 / order))


def _local_response_vjp(
    wanted: frozenset[str], input: Any, size: Any, alpha: Any, beta: Any, k: Any
) -> tuple[Array, Pullback]:
    output = local_response_norm(input, size, alpha, beta, k)
    x, factors = as_array(input, "local_response_norm", "input"), (float(alpha), float(beta), float(k))
    return output, lambda gradient: {"input": _core.local_response_norm_gradient(x, gradient, size, *factors)}


@op(shape=_local_response_shape, vjp=_local_response_vjp, traits=Traits(in_place=True), receptive=pointwise)
def local_response_norm(input: Array, size: int, alpha: float = 1e-4, beta: float = 0.75, k: float = 1.0) -> Array:
    """Divide every value by a power of the mean square of its neighbours along the channels.

    ``y[c] = x[c] / (k + alpha / size * sum of x[i]^2)^beta`` over ``c - size // 2 <= i <= c + (size - 1) // 2``, with
    zeros beyond the first and the last channel. This is torch's formula; Caffe's and the paper's `alpha` differ by
    the factor `size`.

    Parameters
    ----------
    input
        float32, (N, C, H, W).
    size
        The number of channels in the window, at least 1.
    alpha, beta, k
        As in the formula. ``beta=0.75`` is the fastest.

    Returns
    -------
    numpy.ndarray
        float32, the shape of `input`, channels last in memory.

    Raises
    ------
    TypeError
        If an argument has the wrong type.
    ValueError
        If `input` is not an image, or `size` is not positive.

    Examples
    --------
    >>> import numpy as np
    >>> from convlane.functional import local_response_norm
    >>> local_response_norm(np.full((1, 1, 1, 1), 2, np.float32), size=1, alpha=1, beta=1, k=0)
    array([[[[0.5]]]], dtype=float32)

    References
    ----------
    Krizhevsky, Sutskever, Hinton, "ImageNet classification with deep convolutional neural networks", NIPS 2012.
    """
    op = "local_response_norm"
    x = as_array(input, op, "input")
    _local_response_shape(x)
    alpha, beta, k = (as_float(value, op, name) for value, name in ((alpha, "alpha"), (beta, "beta"), (k, "k")))
    return _core.local_response_norm(x, as_int(size, op, "size"), alpha, beta, k)


def _checked(input: Any, weight: Any, bias: Any, eps: Any) -> tuple[Array, Array, Array | None, Array | None, float]:
    """Return batch norm's input, that input as an image, and the other arguments."""
    x = as_array(input, "batch_norm", "input")
    _batch_norm_shape(x, None, None, training=True)
    weight = None if weight is None else as_array(weight, "batch_norm", "weight")
    bias = None if bias is None else as_array(bias, "batch_norm", "bias")
    return x, as_pixels(x), weight, bias, as_float(eps, "batch_norm", "eps")


def _check_trainable(running_mean: Any, running_var: Any, image: Array) -> None:
    _check_updatable("batch_norm", running_mean, running_var, image.shape[1])
    if _values(image) < 2:
        raise ValueError(f"batch_norm: training needs more than 1 value per channel, got input shape {image.shape}")


@quiet
def _move_running(
    op: str,
    running_mean: Array | None,
    running_var: Array | None,
    values: int,
    moments: Sequence[Any],
    momentum: Any,
) -> None:
    """Move running statistics towards those of a batch of `values` values per channel."""
    part, (mean, var) = as_float(momentum, op, "momentum"), moments
    unbiased = values / (values - 1)
    if running_mean is not None:
        running_mean[...] = (1 - part) * running_mean + part * mean
    if running_var is not None:
        running_var[...] = (1 - part) * running_var + part * unbiased * var


def _values(image: Array) -> int:
    """Return the number of values per channel."""
    return int(image.shape[0]) * math.prod(image.shape[2:])


def _check_present(op: str, running_mean: Any, running_var: Any) -> None:
    if running_mean is None or running_var is None:
        when = "training" if op == "batch_norm" else "use_input_stats"
        raise ValueError(f"{op}: running_mean and running_var are required unless {when}=True")


def _check_updatable(op: str, running_mean: Any, running_var: Any, channels: int) -> None:
    for running, name in ((running_mean, "running_mean"), (running_var, "running_var")):
        if running is None:
            continue
        if not isinstance(running, np.ndarray) or running.dtype != np.float32:
            kind = getattr(running, "dtype", type(running).__name__)
            raise TypeError(f"{op}: {name} must be a float32 array, to be updated in place, got {kind}")
        if running.shape != (channels,):
            raise ValueError(f"{op}: {name} must have shape ({channels},), got {running.shape}")
        if not running.flags.writeable:
            raise ValueError(f"{op}: {name} is read-only, but training updates it in place")
