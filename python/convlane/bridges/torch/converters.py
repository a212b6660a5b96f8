"""The converter of each ATen operation: a function of its arguments, in the schema's order, that calls `functional`.

Arguments are arrays (or what stands for them), numbers and lists, as in the schema, with defaults filled in. An
operation without arrays among its arguments is computed with NumPy.
"""

from __future__ import annotations

import builtins
import math
import operator
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, TypeVar

import numpy as np

from convlane import functional as F
from convlane.autograd import stop_gradient
from convlane.bridges.torch.program import Part
from convlane.functional._arguments import is_number
from convlane.functional._placeholder import Placeholder

Function = TypeVar("Function", bound=Callable[..., Any])

_TO_THE_END = 2**63 - 1
"""The end of slices that have none."""

CONVERTERS: dict[str, Callable[..., Any]] = {}
"""By the operation's name, with its overload where that matters: ``conv2d``, ``add.Tensor``."""

ASK_MODE: set[Callable[..., Any]] = set()
"""Those that take the module which they belong to as their last argument, for its mode."""

PLAIN: frozenset[Any] = frozenset(
    getattr(operator, name)
    for name in (
        *("add", "sub", "mul", "floordiv", "truediv", "mod", "pow", "neg", "getitem", "eq", "ne", "lt", "le", "gt"),
        *("ge", "and_", "or_", "not_"),
    )
) | {math.floor, math.ceil, math.trunc, math.sqrt, builtins.round, builtins.min, builtins.max}
"""Functions of sizes and of tuples, which are called unchanged."""


def converts(*names: str, mode: bool = False) -> Callable[[Function], Function]:
    """Register a function as the converter of some operations."""

    def register(function: Function) -> Function:
        CONVERTERS.update(dict.fromkeys(names, function))
        if mode:
            ASK_MODE.add(function)
        return function

    return register


def converter_of(name: str, overload: str) -> Callable[..., Any] | None:
    """Return the converter of an operation; the in-place form has that of the other."""
    for candidate in (f"{name}.{overload}", name, f"{name.removesuffix('_')}.{overload}", name.removesuffix("_")):
        if candidate in CONVERTERS:
            return CONVERTERS[candidate]
    return None


def _same(*names: str, **functions: Callable[..., Any]) -> None:
    """Register operations that take what a function of the same name takes."""
    for name in names:
        CONVERTERS[name] = getattr(F, name)
    CONVERTERS.update(functions)


# Convolutions and products


@converts("conv1d", "conv1d.padding", "conv2d", "conv2d.padding", "conv3d", "conv3d.padding")
def _conv(input: Any, weight: Any, bias: Any, stride: Any, padding: Any, dilation: Any, groups: int) -> Any:
    run: Any = {3: F.conv1d, 4: F.conv2d, 5: F.conv3d}[len(weight.shape)]
    axes = len(weight.shape) - 2
    sides = padding if isinstance(padding, str) else _per_axis(padding, axes)
    return run(input, weight, bias, _per_axis(stride, axes), sides, _per_axis(dilation, axes), groups)


@converts("conv_transpose1d", "conv_transpose2d", "conv_transpose3d")
def _conv_transpose(
    input: Any, weight: Any, bias: Any, stride: Any, padding: Any, output_padding: Any, groups: int, dilation: Any
) -> Any:
    run: Any = {3: F.conv_transpose1d, 4: F.conv_transpose2d, 5: F.conv_transpose3d}[len(weight.shape)]
    stride, padding, more, dilation = (
        _per_axis(each, len(weight.shape) - 2) for each in (stride, padding, output_padding, dilation)
    )
    return run(input, weight, bias, stride, padding, more, groups, dilation)


@converts("convolution")
def _convolution(
    input: Any,
    weight: Any,
    bias: Any,
    stride: Any,
    padding: Any,
    dilation: Any,
    transposed: bool,
    output_padding: Any,
    groups: int,
) -> Any:
    if transposed:
        return _conv_transpose(input, weight, bias, stride, padding, output_padding, groups, dilation)
    return _conv(input, weight, bias, stride, padding, dilation, groups)


def _per_axis(value: Any, axes: int) -> Any:
    """Return one number for each axis; ATen's lists may have one for all."""
    numbers = tuple(value) if isinstance(value, (list, tuple)) else (value,)
    return numbers * axes if len(numbers) == 1 else numbers


def _linear(input: Any, weight: Any, bias: Any = None) -> Any:
    return F.linear(input, weight, bias)


@converts("addmm")
def _addmm(input: Any, mat1: Any, mat2: Any, beta: float, alpha: float) -> Any:
    return _add(_mul(F.matmul(mat1, mat2), alpha), _mul(input, beta), 1)


@converts("baddbmm")
def _baddbmm(input: Any, batch1: Any, batch2: Any, beta: float, alpha: float) -> Any:
    return _addmm(input, batch1, batch2, beta, alpha)


def _matmul(input: Any, other: Any, out_dtype: Any = None) -> Any:
    return F.matmul(input, other)


_same(linear=_linear, matmul=_matmul, mm=_matmul, bmm=_matmul, mv=_matmul)


@converts("dot", "vdot")
def _dot(input: Any, other: Any) -> Any:
    return F.sum(F.mul(input, other))


@converts("outer", "ger")
def _outer(input: Any, vec2: Any) -> Any:
    return F.mul(F.unsqueeze(input, 1), vec2)


@converts("scaled_dot_product_attention")
def _attention(
    query: Any,
    key: Any,
    value: Any,
    attn_mask: Any,
    dropout_p: float,
    is_causal: bool,
    scale: float | None,
    enable_gqa: bool,
) -> Any:
    if dropout_p or enable_gqa:
        raise TypeError("scaled_dot_product_attention with dropout or grouped queries is not supported")
    factor = 1 / math.sqrt(query.shape[-1]) if scale is None else scale
    scores = F.matmul(F.affine(query, factor), F.transpose(key, -1, -2))
    if is_causal:
        attn_mask = np.tril(np.ones(scores.shape[-2:], bool))
    if attn_mask is not None and attn_mask.dtype == np.bool_:
        scores = F.where(attn_mask, scores, -math.inf)
    elif attn_mask is not None:
        scores = F.add(scores, attn_mask)
    return F.matmul(F.softmax(scores, -1), value)


@converts("_native_multi_head_attention")
def _self_attention(
    query: Any,
    key: Any,
    value: Any,
    embed_dim: int,
    heads: int,
    qkv_weight: Any,
    qkv_bias: Any,
    proj_weight: Any,
    proj_bias: Any,
    mask: Any = None,
    need_weights: bool = False,
    average_weights: bool = True,
    mask_type: int | None = None,
) -> Any:
    if query is not key or key is not value or need_weights or mask is not None:
        raise TypeError("cross-attention, masks and returned attention weights are not supported in a fused attention")
    examples, length = query.shape[0], query.shape[1]
    joined = F.linear(query, qkv_weight, qkv_bias)
    q, k, v = (
        F.permute(F.reshape(each, (examples, length, heads, embed_dim // heads)), (0, 2, 1, 3))
        for each in F.chunk(joined, 3, 2)
    )
    attended = F.permute(_attention(q, k, v, None, 0.0, False, None, False), (0, 2, 1, 3))
    return F.linear(F.reshape(attended, (examples, length, embed_dim)), proj_weight, proj_bias), None


@converts("_transformer_encoder_layer_fwd")
def _transformer_layer(
    src: Any,
    embed_dim: int,
    heads: int,
    qkv_weight: Any,
    qkv_bias: Any,
    proj_weight: Any,
    proj_bias: Any,
    use_gelu: bool,
    norm_first: bool,
    eps: float,
    *others: Any,
) -> Any:
    norm1, norm2 = others[0:2], others[2:4]
    weight1, bias1, weight2, bias2, mask, _ = others[4:10]

    def attended(x: Any) -> Any:
        return _self_attention(x, x, x, embed_dim, heads, qkv_weight, qkv_bias, proj_weight, proj_bias, mask)[0]

    def mixed(x: Any) -> Any:
        x = F.linear(x, weight1, bias1)
        return F.linear(F.gelu(x) if use_gelu else F.relu(x), weight2, bias2)

    def normed(x: Any, norm: Any) -> Any:
        return F.layer_norm(x, (embed_dim,), norm[0], norm[1], eps)

    if norm_first:
        src = F.add(src, attended(normed(src, norm1)))
        return F.add(src, mixed(normed(src, norm2)))
    src = normed(F.add(src, attended(src)), norm1)
    return normed(F.add(src, mixed(src)), norm2)


@converts("einsum")
def _einsum(equation: str, tensors: Sequence[Any], path: Any) -> Any:
    """Multiply from the left to the right, each time two operands, as stacks of matrices."""
    terms, result = _einsum_terms(equation, [len(tensor.shape) for tensor in tensors])
    first, term = tensors[0], terms[0]
    for i, other in enumerate(tensors[1:], 1):
        later = {letter for each in (result, *terms[i + 1 :]) for letter in each}
        first, term = _einsum_of_two(first, term, other, terms[i], later)
    first, term = _summed_away(first, term, set(result))
    return _permute(first, [term.index(letter) for letter in result])


def _einsum_terms(equation: str, ranks: Sequence[int]) -> tuple[list[str], str]:
    """Return the letters of each operand and of the result, with letters for what dots stand for."""
    left, arrow, result = equation.replace(" ", "").partition("->")
    terms = left.split(",")
    if not arrow:
        letters = left.replace(",", "").replace(".", "")
        result = ("..." if "." in left else "") + "".join(sorted(a for a in letters if letters.count(a) == 1))
    spare = [chr(code) for code in range(ord("\u0101"), ord("\u0101") + 8)]  # which no equation has
    dots = [rank - len(term.replace("...", "")) for term, rank in zip(terms, ranks, strict=True)]
    most = max((count for term, count in zip(terms, dots, strict=True) if "..." in term), default=0)
    named = [term.replace("...", "".join(spare[most - count : most])) for term, count in zip(terms, dots, strict=True)]
    result = result.replace("...", "".join(spare[:most]))
    if any(len(set(term)) < len(term) for term in (*named, result)):
        raise TypeError(f"einsum {equation!r} is not supported: a letter is repeated in one operand")
    return named, result


def _summed_away(tensor: Any, term: str, kept: set[str]) -> tuple[Any, str]:
    """Sum over letters that nobody else has."""
    dims = tuple(i for i, letter in enumerate(term) if letter not in kept)
    return (F.sum(tensor, dims), "".join(each for each in term if each in kept)) if dims else (tensor, term)


def _einsum_of_two(one: Any, a: str, two: Any, b: str, later: set[str]) -> tuple[Any, str]:
    """Reshape two operands to stacks of matrices: letters of both, of one, and those that are summed."""
    (one, a), (two, b) = _summed_away(one, a, later | set(b)), _summed_away(two, b, later | set(a))
    sizes = dict(zip(a + b, (*one.shape, *two.shape), strict=True))
    if sizes != dict(zip(b + a, (*two.shape, *one.shape), strict=True)):
        raise TypeError("einsum of sizes that broadcast is not supported")
    both = [letter for letter in a if letter in b and letter in later]
    first, second = [letter for letter in a if letter not in b], [letter for letter in b if letter not in a]
    summed = [letter for letter in a if letter in b and letter not in later]

    def matrices(term: str, tensor: Any, rows: list[str], columns: list[str]) -> Any:
        moved = _permute(tensor, [term.index(letter) for letter in both + rows + columns])
        shape = [sizes[letter] for letter in both]
        return F.reshape(moved, [*shape, *(math.prod(sizes[letter] for letter in each) for each in (rows, columns))])

    product = F.matmul(matrices(a, one, first, summed), matrices(b, two, summed, second))
    order = both + first + second
    return F.reshape(product, [sizes[letter] for letter in order]), "".join(order)


@converts("bilinear")
def _bilinear(input1: Any, input2: Any, weight: Any, bias: Any) -> Any:
    found = _einsum("...i,oij,...j->...o", (input1, weight, input2), None)
    return found if bias is None else F.add(found, bias)


@converts("cdist")
def _cdist(x1: Any, x2: Any, p: float, compute_mode: Any) -> Any:
    return _vector_norm(F.sub(F.unsqueeze(x1, -2), F.unsqueeze(x2, -3)), p, [-1], False)


# Norms


@converts("batch_norm", mode=True)
def _batch_norm(
    input: Any,
    weight: Any,
    bias: Any,
    running_mean: Any,
    running_var: Any,
    training: bool,
    momentum: float,
    eps: float,
    cudnn_enabled: bool,
    part: Part,
) -> Any:
    counter = vars(part).get("num_batches_tracked")
    if part.training and counter is not None:
        counter += 1
        momentum = 1 / int(counter) if vars(part).get("averages") else momentum
    measured = training or part.training or running_mean is None
    return F.batch_norm(input, running_mean, running_var, weight, bias, measured, momentum, eps)


@converts("_native_batch_norm_legit_no_training", mode=True)
def _native_batch_norm(
    input: Any, weight: Any, bias: Any, mean: Any, var: Any, momentum: float, eps: float, part: Part
) -> Any:
    return (_batch_norm(input, weight, bias, mean, var, False, momentum, eps, False, part),)


@converts("_weight_norm")
def _weight_norm(v: Any, g: Any, dim: int) -> Any:
    others = tuple(axis for axis in range(len(v.shape)) if axis != dim % len(v.shape))
    return F.mul(v, F.div(g, F.sqrt(F.sum(F.square(v), others, True))))


@converts("_native_batch_norm_legit.no_stats")
def _batch_norm_without_statistics(
    input: Any, weight: Any, bias: Any, training: bool, momentum: float, eps: float
) -> Any:
    return (F.batch_norm(input, None, None, weight, bias, True, momentum, eps),)


@converts("layer_norm")
def _layer_norm(input: Any, shape: Any, weight: Any, bias: Any, eps: float, cudnn: bool) -> Any:
    return F.layer_norm(input, shape, weight, bias, eps)


@converts("group_norm")
def _group_norm(input: Any, groups: int, weight: Any, bias: Any, eps: float, cudnn: bool) -> Any:
    return F.group_norm(input, groups, weight, bias, eps)


@converts("instance_norm")
def _instance_norm(
    input: Any, weight: Any, bias: Any, mean: Any, var: Any, measured: bool, momentum: float, eps: float, cudnn: bool
) -> Any:
    return F.instance_norm(input, mean, var, weight, bias, measured, momentum, eps)


@converts("linalg_vector_norm", "norm.ScalarOpt_dim")
def _vector_norm(input: Any, ord: float, dim: Any, keepdim: bool, dtype: Any = None) -> Any:
    if ord == 1:
        return F.sum(F.abs(input), dim, keepdim)
    if ord == math.inf:
        return F.amax(F.abs(input), dim, keepdim)
    if ord != 2:
        raise TypeError(f"a norm of order {ord} is not supported: only 1, 2 and infinity are")
    return F.sqrt(F.sum(F.square(input), dim, keepdim))


@converts("cosine_similarity")
def _cosine_similarity(x1: Any, x2: Any, dim: int, eps: float) -> Any:
    one, two = (F.div(x, _clamp(_vector_norm(x, 2, [dim], True), eps)) for x in (x1, x2))
    return F.sum(F.mul(one, two), dim)


@converts("pairwise_distance")
def _pairwise_distance(x1: Any, x2: Any, p: float, eps: float, keepdim: bool) -> Any:
    return _vector_norm(F.affine(F.sub(x1, x2), 1, eps), p, [-1], keepdim)


def _rms_norm(input: Any, shape: Any, weight: Any, eps: Any) -> Any:
    return F.rms_norm(input, shape, weight, eps)


_same(rms_norm=_rms_norm)

# Activations

_same(
    *("relu", "relu6", "leaky_relu", "silu", "hardswish", "hardsigmoid", "sigmoid", "tanh", "mish", "selu", "celu"),
    *("prelu", "softplus", "hardtanh", "threshold", "glu"),
    log_sigmoid=F.logsigmoid,
)


@converts("gelu")
def _gelu(input: Any, approximate: str) -> Any:
    return F.gelu(input, approximate=approximate)


@converts("elu")
def _elu(input: Any, alpha: float, scale: float, input_scale: float) -> Any:
    if (scale, input_scale) != (1, 1):
        raise TypeError("elu with a scale is not supported")
    return F.elu(input, alpha)


@converts("rrelu")
def _rrelu(input: Any, lower: float, upper: float, training: bool, generator: Any) -> Any:
    return F.leaky_relu(input, (lower + upper) / 2)


@converts("softshrink")
def _softshrink(input: Any, lambd: float) -> Any:
    return F.sub(F.relu(F.affine(input, 1, -lambd)), F.relu(F.affine(input, -1, -lambd)))


@converts("hardshrink")
def _hardshrink(input: Any, lambd: float) -> Any:
    return F.where(F.gt(F.abs(input), lambd), input, 0.0)


@converts("softmax", "_softmax")
def _softmax(input: Any, dim: int, dtype: Any) -> Any:
    return F.softmax(input, dim)


@converts("log_softmax", "_log_softmax")
def _log_softmax(input: Any, dim: int, dtype: Any) -> Any:
    return F.log_softmax(input, dim)


@converts("dropout", "feature_dropout", mode=True)
def _dropout(input: Any, p: float, train: bool, part: Part) -> Any:
    return F.dropout(input, p) if train or part.training else input


@converts("alpha_dropout", "feature_alpha_dropout", mode=True)
def _alpha_dropout(input: Any, p: float, train: bool, part: Part) -> Any:
    if p and (train or part.training):
        raise TypeError("alpha_dropout in training mode is not supported")
    return input


# Pooling


@converts("max_pool1d", "max_pool2d", "max_pool3d")
def _max_pool(input: Any, kernel: Any, stride: Any, padding: Any, dilation: Any, ceil_mode: bool) -> Any:
    axes = len(kernel) if len(kernel) > 1 else len(input.shape) - 2
    run: Any = {1: F.max_pool1d, 2: F.max_pool2d, 3: F.max_pool3d}[axes]
    kernel, padding, dilation = (_per_axis(each, axes) for each in (kernel, padding, dilation))
    return run(input, kernel, _per_axis(stride, axes) if stride else None, padding, dilation, ceil_mode)


@converts("max_pool2d_with_indices", "max_pool3d_with_indices")
def _max_pool_with_indices(input: Any, kernel: Any, stride: Any, padding: Any, dilation: Any, ceil_mode: bool) -> Any:
    axes = len(kernel) if len(kernel) > 1 else len(input.shape) - 2
    run: Any = {2: F.max_pool2d, 3: F.max_pool3d}[axes]
    kernel, padding, dilation = (_per_axis(each, axes) for each in (kernel, padding, dilation))
    return run(input, kernel, _per_axis(stride, axes) if stride else None, padding, dilation, ceil_mode, True)


@converts("avg_pool1d", "avg_pool2d", "avg_pool3d")
def _avg_pool(
    input: Any,
    kernel: Any,
    stride: Any,
    padding: Any,
    ceil_mode: bool,
    count_include_pad: bool,
    divisor_override: int | None = None,
) -> Any:
    axes = len(kernel) if len(kernel) > 1 else len(input.shape) - 2
    run: Any = {1: F.avg_pool1d, 2: F.avg_pool2d, 3: F.avg_pool3d}[axes]
    more = {} if divisor_override is None else {"divisor_override": divisor_override}
    kernel, padding = _per_axis(kernel, axes), _per_axis(padding, axes)
    return run(
        input, kernel, _per_axis(stride, axes) if stride else None, padding, ceil_mode, count_include_pad, **more
    )


@converts("max_unpool2d")
def _max_unpool(input: Any, indices: Any, output_size: Any) -> Any:
    return F.max_unpool2d(input, indices, _factors(input, output_size), output_size=tuple(output_size[-2:]))


def _factors(input: Any, size: Any) -> tuple[int, ...]:
    """Return the largest enlargement of pictures: ATen has only the size, and no kernel."""
    return tuple(-(-large // small) for large, small in zip(size[-2:], input.shape[-2:], strict=True))


@converts("adaptive_avg_pool1d", "adaptive_avg_pool2d", "adaptive_avg_pool3d", "_adaptive_avg_pool2d")
def _adaptive_avg_pool(input: Any, size: Any) -> Any:
    run: Any = {1: F.adaptive_avg_pool1d, 2: F.adaptive_avg_pool2d, 3: F.adaptive_avg_pool3d}[len(size)]
    return run(input, size[0] if len(size) == 1 else tuple(size))


@converts("adaptive_max_pool1d", "adaptive_max_pool2d", "adaptive_max_pool3d")
def _adaptive_max_pool(input: Any, size: Any) -> Any:
    run: Any = {1: F.adaptive_max_pool1d, 2: F.adaptive_max_pool2d, 3: F.adaptive_max_pool3d}[len(size)]
    return run(input, size[0] if len(size) == 1 else tuple(size), True)


# Sizes of pictures


@converts("upsample_nearest1d.vec", "upsample_nearest2d.vec", "upsample_nearest3d.vec")
def _nearest(input: Any, size: Any, factors: Any) -> Any:
    return F.interpolate(input, size, factors, "nearest")


@converts("_upsample_nearest_exact1d.vec", "_upsample_nearest_exact2d.vec", "_upsample_nearest_exact3d.vec")
def _nearest_exact(input: Any, size: Any, factors: Any) -> Any:
    return F.interpolate(input, size, factors, "nearest-exact")


def _resampled(mode: str, input: Any, size: Any, align_corners: bool, factors: Any, antialias: bool = False) -> Any:
    return F.interpolate(input, size, factors, mode, align_corners, antialias=antialias)


converts("upsample_linear1d.vec")(partial(_resampled, "linear"))
converts("upsample_bilinear2d.vec")(partial(_resampled, "bilinear"))
converts("_upsample_bilinear2d_aa.vec")(partial(_resampled, "bilinear", antialias=True))
converts("upsample_bicubic2d.vec")(partial(_resampled, "bicubic"))
converts("upsample_trilinear3d.vec")(partial(_resampled, "trilinear"))


@converts("grid_sampler", "grid_sampler_2d")
def _grid_sampler(input: Any, grid: Any, mode: int, padding_mode: int, align_corners: bool) -> Any:
    modes, paddings = ("bilinear", "nearest", "bicubic"), ("zeros", "border", "reflection")
    return F.grid_sample(input, grid, modes[mode], paddings[padding_mode], align_corners)


@converts("affine_grid_generator")
def _affine_grid(theta: Any, size: Any, align_corners: bool) -> Any:
    return F.affine_grid(theta, (theta.shape[0], *size[1:]), align_corners)


@converts("im2col")
def _im2col(input: Any, kernel_size: Any, dilation: Any, padding: Any, stride: Any) -> Any:
    return F.unfold(input, *(_per_axis(each, 2) for each in (kernel_size, dilation, padding, stride)))


@converts("col2im")
def _col2im(input: Any, output_size: Any, kernel_size: Any, dilation: Any, padding: Any, stride: Any) -> Any:
    return F.fold(input, *(_per_axis(each, 2) for each in (output_size, kernel_size, dilation, padding, stride)))


_same("pixel_shuffle", "pixel_unshuffle", "channel_shuffle")


@converts("pad", "constant_pad_nd")
def _pad(input: Any, pad: Any, mode: Any = "constant", value: Any = None) -> Any:
    if not isinstance(mode, str):  # of constant_pad_nd, which has no mode
        mode, value = "constant", mode
    return F.pad(input, pad, mode, 0 if value is None else value)


@converts("reflection_pad1d", "reflection_pad2d", "reflection_pad3d")
def _reflect(input: Any, pad: Any) -> Any:
    return F.pad(input, pad, "reflect")


@converts("replication_pad1d", "replication_pad2d", "replication_pad3d")
def _replicate(input: Any, pad: Any) -> Any:
    return F.pad(input, pad, "replicate")


# Arithmetic


def _is_plain(*values: Any) -> bool:
    """Whether these are numbers, and arrays of integers or truth values that are known: NumPy computes those."""
    return all(
        is_number(value)
        or isinstance(value, (bool, np.bool_))
        or (isinstance(value, np.ndarray) and value.dtype.kind != "f")
        for value in values
    )


@converts("add")
def _add(input: Any, other: Any, alpha: float = 1) -> Any:
    if _is_plain(input, other):
        return input + alpha * other
    if is_number(other):
        return F.affine(input, 1, alpha * other)
    if is_number(input):
        return F.affine(other, alpha, input)
    return F.add(input, other if alpha == 1 else F.affine(other, alpha))


@converts("sub")
def _sub(input: Any, other: Any, alpha: float = 1) -> Any:
    if _is_plain(input, other):
        return input - alpha * other
    if is_number(other) or is_number(input):
        return _add(input, other, -alpha)
    return F.sub(input, other if alpha == 1 else F.affine(other, alpha))


@converts("rsub")
def _rsub(input: Any, other: Any, alpha: float = 1) -> Any:
    return _sub(other, input, alpha)


@converts("mul")
def _mul(input: Any, other: Any) -> Any:
    if _is_plain(input, other):
        return input * other
    if is_number(input):
        input, other = other, input
    if is_number(other):
        return input if other == 1 else F.affine(input, other)
    return F.mul(input, other)


@converts("div")
def _div(input: Any, other: Any, rounding_mode: str | None = None) -> Any:
    if _is_plain(input, other):
        exact = np.true_divide(input, other)
        return (
            exact if rounding_mode is None else {"floor": np.floor, "trunc": np.trunc}[rounding_mode](exact).astype(int)
        )
    quotient = F.affine(input, 1 / other) if is_number(other) and rounding_mode is None else F.div(input, other)
    if rounding_mode == "trunc":
        return _trunc(quotient)
    return F.floor(quotient) if rounding_mode == "floor" else quotient


@converts("floor_divide")
def _floor_divide(input: Any, other: Any) -> Any:
    return _div(input, other, "floor")


@converts("remainder")
def _remainder(input: Any, other: Any) -> Any:
    return input % other if _is_plain(input, other) else F.sub(input, _mul(F.floor(F.div(input, other)), other))


@converts("pow")
def _pow(input: Any, exponent: Any) -> Any:
    return F.square(input) if is_number(exponent) and exponent == 2 else F.pow(input, exponent)


@converts("addcmul")
def _addcmul(input: Any, tensor1: Any, tensor2: Any, value: float) -> Any:
    return _add(input, F.mul(tensor1, tensor2), value)


@converts("lerp")
def _lerp(input: Any, end: Any, weight: Any) -> Any:
    return F.add(input, _mul(F.sub(end, input), weight))


_same(
    *("abs", "sign", "square", "sqrt", "rsqrt", "reciprocal", "exp", "log", "log1p", "sin", "cos", "erf", "floor"),
    *("ceil", "neg", "maximum", "minimum", "eq", "ne", "lt", "le", "gt", "ge", "logical_and", "logical_or"),
    "logical_not",
    greater=F.gt,
    less=F.lt,
    bitwise_and=F.logical_and,
    bitwise_or=F.logical_or,
    bitwise_not=F.logical_not,
    __and__=F.logical_and,
    __or__=F.logical_or,
    logical_xor=F.ne,
    bitwise_xor=F.ne,
    __xor__=F.ne,
)


@converts("round")
def _round(input: Any) -> Any:
    return F.round(input)


@converts("expm1")
def _expm1(input: Any) -> Any:
    return F.affine(F.exp(input), 1, -1)


@converts("exp2")
def _exp2(input: Any) -> Any:
    return F.exp(F.affine(input, math.log(2)))


@converts("log2")
def _log2(input: Any) -> Any:
    return F.affine(F.log(input), 1 / math.log(2))


@converts("log10")
def _log10(input: Any) -> Any:
    return F.affine(F.log(input), 1 / math.log(10))


@converts("tan")
def _tan(input: Any) -> Any:
    return F.div(F.sin(input), F.cos(input))


@converts("trunc", "fix")
def _trunc(input: Any) -> Any:
    return F.mul(F.sign(input), F.floor(F.abs(input)))


@converts("max.other")
def _larger(input: Any, other: Any) -> Any:
    return F.maximum(input, other)


@converts("min.other")
def _smaller(input: Any, other: Any) -> Any:
    return F.minimum(input, other)


@converts("isnan")
def _isnan(input: Any) -> Any:
    return F.ne(input, input)


@converts("isinf")
def _isinf(input: Any) -> Any:
    return F.eq(F.abs(input), math.inf)


@converts("isfinite")
def _isfinite(input: Any) -> Any:
    return F.lt(F.abs(input), math.inf)


@converts("clamp", "clip")
def _clamp(input: Any, min: Any = None, max: Any = None) -> Any:
    if min is not None and not is_number(min):
        input, min = F.maximum(input, min), None
    if max is not None and not is_number(max):
        input, max = F.minimum(input, max), None
    return input if min is None and max is None else F.clamp(input, min, max)


@converts("clamp_min")
def _clamp_min(input: Any, min: Any) -> Any:
    return _clamp(input, min)


@converts("clamp_max")
def _clamp_max(input: Any, max: Any) -> Any:
    return _clamp(input, None, max)


@converts("where.self", "where.Scalar", "where.ScalarSelf", "where.ScalarOther")
def _where(condition: Any, input: Any, other: Any) -> Any:
    return F.where(condition, input, other)


@converts("masked_fill")
def _masked_fill(input: Any, mask: Any, value: Any) -> Any:
    return F.where(mask, value, input)


# Reductions


def _dims(dim: Any) -> Any:
    """Return dimensions as `functional` takes them; in ATen an empty list is all."""
    return None if dim is None else (tuple(dim) or None) if isinstance(dim, (list, tuple)) else (dim,)


@converts("mean")
def _mean(input: Any, dim: Any = None, keepdim: bool = False, dtype: Any = None) -> Any:
    dims = _dims(dim)
    if dims is not None and len(input.shape) == 4 and {each % 4 for each in dims} == {2, 3}:
        pooled = F.global_avg_pool2d(input)
        return pooled if keepdim else F.flatten(pooled)
    return F.mean(input, dims, keepdim)


@converts("sum")
def _sum(input: Any, dim: Any = None, keepdim: bool = False, dtype: Any = None) -> Any:
    return F.sum(input, _dims(dim), keepdim)


@converts("amax")
def _amax(input: Any, dim: Any, keepdim: bool) -> Any:
    return F.amax(input, _dims(dim), keepdim)


@converts("amin")
def _amin(input: Any, dim: Any, keepdim: bool) -> Any:
    return F.amin(input, _dims(dim), keepdim)


@converts("max.default")
def _max(input: Any) -> Any:
    return F.amax(input)


@converts("min.default")
def _min(input: Any) -> Any:
    return F.amin(input)


@converts("max.dim")
def _max_with_index(input: Any, dim: int, keepdim: bool) -> Any:
    return F.amax(input, dim, keepdim), F.argmax(input, dim, keepdim)


@converts("min.dim")
def _min_with_index(input: Any, dim: int, keepdim: bool) -> Any:
    return F.amin(input, dim, keepdim), F.argmin(input, dim, keepdim)


@converts("argmax")
def _argmax(input: Any, dim: int | None, keepdim: bool) -> Any:
    return F.argmax(input, dim, keepdim)


@converts("argmin")
def _argmin(input: Any, dim: int | None, keepdim: bool) -> Any:
    return F.argmin(input, dim, keepdim)


@converts("prod.default")
def _prod(input: Any, dtype: Any) -> Any:
    return F.prod(input)


@converts("prod.dim_int")
def _prod_along(input: Any, dim: int, keepdim: bool, dtype: Any) -> Any:
    return F.prod(input, dim, keepdim)


@converts("cumsum")
def _cumsum(input: Any, dim: int, dtype: Any) -> Any:
    return np.cumsum(input, dim) if _is_plain(input) else F.cumsum(input, dim)


@converts("var.correction")
def _var(input: Any, dim: Any, correction: float | None, keepdim: bool) -> Any:
    return F.var(input, _dims(dim), correction=1 if correction is None else correction, keepdim=keepdim)


@converts("var.dim")
def _unbiased_var(input: Any, dim: Any, unbiased: bool, keepdim: bool) -> Any:
    return _var(input, dim, int(unbiased), keepdim)


@converts("std.correction")
def _std(input: Any, dim: Any, correction: float | None, keepdim: bool) -> Any:
    return F.sqrt(_var(input, dim, correction, keepdim))


@converts("std.dim")
def _unbiased_std(input: Any, dim: Any, unbiased: bool, keepdim: bool) -> Any:
    return _std(input, dim, int(unbiased), keepdim)


@converts("var_mean.correction")
def _var_mean(input: Any, dim: Any, correction: float | None, keepdim: bool) -> Any:
    return _var(input, dim, correction, keepdim), F.mean(input, _dims(dim), keepdim)


@converts("var_mean.dim")
def _unbiased_var_mean(input: Any, dim: Any, unbiased: bool, keepdim: bool) -> Any:
    return _var_mean(input, dim, int(unbiased), keepdim)


@converts("std_mean.dim")
def _unbiased_std_mean(input: Any, dim: Any, unbiased: bool, keepdim: bool) -> Any:
    return _std_mean(input, dim, int(unbiased), keepdim)


@converts("std_mean.correction")
def _std_mean(input: Any, dim: Any, correction: float | None, keepdim: bool) -> Any:
    return _std(input, dim, correction, keepdim), F.mean(input, _dims(dim), keepdim)


@converts("logsumexp")
def _logsumexp(input: Any, dim: Any, keepdim: bool) -> Any:
    dims = _dims(dim)
    largest = F.amax(input, dims, True)
    found = F.add(F.log(F.sum(F.exp(F.sub(input, largest)), dims, True)), largest)
    return found if keepdim else F.squeeze(found, dims)


@converts("topk")
def _topk(input: Any, k: int, dim: int, largest: bool, sorted: bool) -> Any:
    return F.topk(input, k, dim, largest)


# Other shapes and orders


@converts("view.default", "reshape", "_unsafe_view", "view_copy")
def _reshape(input: Any, shape: Any) -> Any:
    shape = opened(input, shape)
    return input if shape == tuple(input.shape) else F.reshape(input, shape)


@converts("view_as", "reshape_as")
def _reshape_as(input: Any, other: Any) -> Any:
    return _reshape(input, tuple(other.shape))


def opened(input: Any, size: Any) -> tuple[int, ...]:
    """Return a size whose first number may be that of the argument, which is None."""
    return tuple(size) if not size or size[0] is not None else (input.shape[0], *size[1:])


@converts("flatten")
def _flatten(input: Any, start_dim: int, end_dim: int) -> Any:
    return F.flatten(input, start_dim, end_dim)


@converts("unflatten")
def _unflatten(input: Any, dim: int, sizes: Any) -> Any:
    at = dim % len(input.shape)
    return F.reshape(input, (*input.shape[:at], *sizes, *input.shape[at + 1 :]))


@converts("squeeze")
def _squeeze(input: Any, dim: Any = None) -> Any:
    return F.squeeze(input, _dims(dim))


@converts("permute", "permute_copy")
def _permute(input: Any, dims: Any) -> Any:
    return input if list(dims) == list(range(len(input.shape))) else F.permute(input, tuple(dims))


@converts("transpose", "swapaxes", "swapdims", "transpose_copy")
def _transpose(input: Any, dim0: int, dim1: int) -> Any:
    return F.transpose(input, dim0, dim1)


@converts("t", "numpy_T")
def _t(input: Any) -> Any:
    return F.permute(input, tuple(range(len(input.shape)))[::-1])


@converts("mT")
def _matrix_transpose(input: Any) -> Any:
    return F.transpose(input, -2, -1)


@converts("movedim.int")
def _movedim(input: Any, source: int, destination: int) -> Any:
    order = list(range(len(input.shape)))
    order.insert(destination % len(order), order.pop(source % len(order)))
    return _permute(input, order)


@converts("expand", "expand_copy")
def _expand(input: Any, size: Any, implicit: bool) -> Any:
    size = opened(input, size)
    return _reshape(input, size) if math.prod(input.shape) == math.prod(size) else F.expand(input, size)


@converts("expand_as")
def _expand_as(input: Any, other: Any) -> Any:
    return F.expand(input, tuple(other.shape))


@converts("repeat", "tile")
def _repeat(input: Any, repeats: Any) -> Any:
    return F.tile(input, tuple(repeats))


@converts("repeat_interleave.self_int")
def _repeat_interleave(input: Any, repeats: int, dim: int | None, output_size: Any) -> Any:
    if dim is None:
        input, dim = F.reshape(input, (-1,)), 0
    at, shape = dim % len(input.shape), tuple(input.shape)
    wide = F.expand(F.unsqueeze(input, at + 1), (*shape[: at + 1], repeats, *shape[at + 1 :]))
    return F.reshape(wide, (*shape[:at], shape[at] * repeats, *shape[at + 1 :]))


@converts("flip")
def _flip(input: Any, dims: Any) -> Any:
    return F.flip(input, tuple(dims))


@converts("rot90")
def _rot90(input: Any, k: int, dims: Any) -> Any:
    first, second = dims
    if k % 2 == 0:
        return F.flip(input, (first, second)) if k % 4 else input
    return F.flip(F.transpose(input, first, second), (first,) if k % 4 == 1 else (second,))


def mixes(function: Callable[..., Any], *args: Any) -> Any:
    """Call a function that mixes the examples of a batch; plans for batches, made for one example, refuse that.

    They do so because of an index along the batch, which changes nothing where a plan is for whole inputs.
    """
    result = function(*args)
    is_planned = isinstance(result, Placeholder) and result.ndim > 0
    return F.index_select(result, 0, np.arange(result.shape[0])) if is_planned else result


def _is_of_examples(input: Any, dim: int) -> bool:
    """Whether a dimension is the examples' while a plan is made: a slice over all of one example is not all of more."""
    return isinstance(input, Placeholder) and dim % len(input.shape) == 0


@converts("roll")
def _roll(input: Any, shifts: Any, dims: Any) -> Any:
    if not dims:
        return F.reshape(_roll(F.reshape(input, (-1,)), shifts, [0]), tuple(input.shape))
    for shift, dim in zip(shifts, dims, strict=True):
        size = input.shape[dim]
        cut = -shift % size
        if _is_of_examples(input, dim):
            input = F.index_select(input, dim, np.roll(np.arange(size), shift))
        elif cut:
            input = F.cat([F.narrow(input, dim, cut, size - cut), F.narrow(input, dim, 0, cut)], dim)
    return input


@converts("cat", "concat", "concatenate")
def _cat(tensors: Any, dim: int) -> Any:
    parts = [tensor for tensor in tensors if tuple(tensor.shape) != (0,)]
    return parts[0] if len(parts) == 1 else F.cat(parts, dim % len(parts[0].shape))


_same("stack", "unsqueeze")


@converts("split.Tensor", "split.default", "split.sizes", "split_with_sizes")
def _split(input: Any, size: Any, dim: int) -> Any:
    return F.split(input, list(size) if isinstance(size, (list, tuple)) else size, dim)


@converts("chunk")
def _chunk(input: Any, chunks: int, dim: int) -> Any:
    return F.chunk(input, chunks, dim)


@converts("unbind")
def _unbind(input: Any, dim: int) -> Any:
    return tuple(_select(input, dim, i) for i in range(input.shape[dim]))


@converts("slice")
def _slice(input: Any, dim: int, start: int | None, end: int | None, step: int) -> Any:
    part = range(*slice(start, end, step).indices(input.shape[dim]))
    if len(part) == input.shape[dim]:
        return input
    if step == 1 and len(part) > 0:
        return F.narrow(input, dim, part.start, len(part))
    return F.strided_slice(input, dim, part.start, part.stop, step)


@converts("narrow")
def _narrow(input: Any, dim: int, start: int, length: int) -> Any:
    return F.narrow(input, dim, start % input.shape[dim], length)


@converts("select.int")
def _select(input: Any, dim: int, index: int) -> Any:
    at = dim % len(input.shape)
    part = F.narrow(input, at, index % input.shape[at], 1)
    return F.reshape(part, (*input.shape[:at], *input.shape[at + 1 :]))


@converts("unfold")
def _unfold(input: Any, dimension: int, size: int, step: int) -> Any:
    """Take windows along a dimension; their elements become a new last dimension."""
    at = dimension % len(input.shape)
    first = np.arange((input.shape[at] - size) // step + 1) * step
    windows = _index(input, [*[None] * at, first[:, None] + np.arange(size)])
    return _movedim(windows, at + 1, -1)


@converts("diff")
def _diff(input: Any, n: int, dim: int, prepend: Any, append: Any) -> Any:
    pieces = [each for each in (prepend, input, append) if each is not None]
    input = _cat(pieces, dim)
    for _ in range(n):
        size = input.shape[dim] - 1
        input = F.sub(F.narrow(input, dim, 1, size), F.narrow(input, dim, 0, size))
    return input


@converts("slice_scatter")
def _slice_scatter(input: Any, src: Any, dim: int, start: int | None, end: int | None, step: int) -> Any:
    size = input.shape[dim]
    part = range(*slice(start, end, step).indices(size))
    if step != 1:
        indices = np.arange(size)
        indices[part.start : part.stop : part.step] = size + np.arange(len(part))
        return F.index_select(F.cat([input, src], dim % len(input.shape)), dim, indices)
    if not start and end in (None, _TO_THE_END):
        return src
    if len(part) == size and not _is_of_examples(input, dim):
        return src
    pieces = [_slice(input, dim, 0, part.start, 1), src, _slice(input, dim, part.stop, size, 1)]
    return F.cat([piece for piece in pieces if piece.shape[dim]], dim % len(input.shape))


@converts("select_scatter")
def _select_scatter(input: Any, src: Any, dim: int, index: int) -> Any:
    at = index % input.shape[dim]
    return _slice_scatter(input, F.unsqueeze(src, dim % len(input.shape)), dim, at, at + 1, 1)


@converts("copy")
def _copy(input: Any, src: Any, non_blocking: bool) -> Any:
    return src if tuple(src.shape) == tuple(input.shape) else F.expand(src, tuple(input.shape))


@converts("fill")
def _fill(input: Any, value: Any) -> Any:
    return np.broadcast_to(np.asarray(value, np.float32), tuple(input.shape))


@converts("index_select")
def _index_select(input: Any, dim: int, index: Any) -> Any:
    return F.index_select(input, dim, index)


@converts("gather")
def _gather(input: Any, dim: int, index: Any, sparse_grad: bool) -> Any:
    return F.gather(input, dim, index)


@converts("embedding")
def _embedding(weight: Any, indices: Any, padding_idx: int, scale: bool, sparse: bool) -> Any:
    return _index(weight, [indices])


@converts("index.Tensor", "_unsafe_index")
def _index(input: Any, indices: Any) -> Any:
    """Index neighbouring dimensions together, as one dimension after a reshape."""
    named = [dim for dim, index in enumerate(indices) if index is not None]
    if named != list(range(named[0], named[-1] + 1)):
        raise TypeError("an index of dimensions that are not adjacent is not supported")
    sizes = [input.shape[dim] for dim in named]
    arrays = [np.asarray(indices[dim]) if is_number(indices[dim]) else indices[dim] for dim in named]
    if all(isinstance(each, np.ndarray) for each in arrays):
        if arrays[0].dtype == np.bool_:
            arrays = list(np.nonzero(arrays[0]))
        together = np.broadcast_arrays(*arrays)
        flat = np.ravel_multi_index([each % size for each, size in zip(together, sizes, strict=True)], sizes)
        rows_index, shape = np.ascontiguousarray(flat.ravel(), np.int64), together[0].shape
    elif len(arrays) == 1:
        rows_index, shape = F.reshape(arrays[0], (-1,)), arrays[0].shape
    else:
        raise TypeError("an index of several computed arrays is not supported")
    first, behind = tuple(input.shape[: named[0]]), tuple(input.shape[named[-1] + 1 :])
    rows = F.reshape(input, (*first, math.prod(sizes), *behind))
    return F.reshape(F.index_select(rows, named[0], rows_index), (*first, *shape, *behind))


# What changes nothing here


@converts("contiguous", "clone", "alias", "lift_fresh_copy", "lift_fresh", "view_as_real_copy")
@converts("positive", "_assert_tensor_metadata", "to", "_to_copy", "type_as", "_autocast_to_full_precision")
def _itself(input: Any, *others: Any) -> Any:
    return input


@converts("detach", "detach_copy")
def _detach(input: Any) -> Any:
    return stop_gradient(input)


def as_float32(input: Any, *others: Any) -> Any:
    """Make float32 of truth values and of integers."""
    if not hasattr(input, "dtype") or input.dtype == np.float32:
        return input
    if input.dtype == np.bool_:
        return F.where(input, 1.0, 0.0)
    if isinstance(input, Placeholder):
        raise TypeError("integers that a plan computes cannot become float32 there")
    return input.astype(np.float32)


def promoted(function: Callable[..., Any], *args: Any) -> Any:
    """Do arithmetic whose result is float32 on operands some of which are not."""
    return function(*map(as_float32, args))


# Sizes, and arrays of them


@converts("sym_size.int")
def _sym_size(input: Any, dim: int) -> int:
    return int(input.shape[dim])


@converts("full")
def _full(size: Any, value: Any, *others: Any) -> Any:
    return np.full(tuple(size), value, np.float32 if isinstance(value, float) else None)


@converts("zeros", "new_zeros", "zeros_like", "zero")
def _zeros(*args: Any) -> Any:
    return np.zeros(_size(args), np.float32)


@converts("ones", "new_ones", "ones_like")
def _ones(*args: Any) -> Any:
    return np.ones(_size(args), np.float32)


def _size(args: Sequence[Any]) -> tuple[int, ...]:
    """Return the size that is asked for: given, or that of an array."""
    sizes = next((each for each in args[:2] if isinstance(each, (list, tuple))), None)
    return tuple(args[0].shape if sizes is None else sizes)


@converts("full_like", "new_full")
def _full_like(input: Any, *args: Any) -> Any:
    size, value = (args[0], args[1]) if isinstance(args[0], (list, tuple)) else (input.shape, args[0])
    return np.full(tuple(size), value, np.float32)


@converts("meshgrid", "meshgrid.indexing")
def _meshgrid(tensors: Any, indexing: str = "ij") -> Any:
    sizes = [each.shape[0] for each in tensors]
    ranks = len(sizes)
    grids = [
        F.expand(F.reshape(each, [1] * i + [sizes[i]] + [1] * (ranks - 1 - i)), sizes) for i, each in enumerate(tensors)
    ]
    return tuple(F.transpose(each, 0, 1) for each in grids) if indexing == "xy" and ranks > 1 else tuple(grids)


def typed(function: Callable[..., Any], dtype: str, *args: Any) -> Any:
    """Compute what depends on sizes alone, which is an array of this type."""
    return np.asarray(function(*args)).astype(dtype, copy=False)


@converts("arange.default")
def _arange(end: Any, *others: Any) -> Any:
    return np.arange(end)


@converts("arange.start")
def _arange_from(start: Any, end: Any, *others: Any) -> Any:
    return np.arange(start, end)


@converts("arange.start_step")
def _arange_step(start: Any, end: Any, step: Any, *others: Any) -> Any:
    return np.arange(start, end, step)
