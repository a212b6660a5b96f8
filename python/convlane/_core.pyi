# Types of the compiled module. Shapes and errors are documented in convlane.functional.

from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

_Array: TypeAlias = NDArray[np.float32]
_Pair: TypeAlias = tuple[int, int]
_Sides: TypeAlias = tuple[int, int, int, int]
_Shape4: TypeAlias = tuple[int, int, int, int]
_Shape5: TypeAlias = tuple[int, int, int, int, int]
_Triple: TypeAlias = tuple[int, int, int]
_Faces: TypeAlias = tuple[int, int, int, int, int, int]

compiler: str
openmp: int

# runtime
def compiled_isas() -> list[str]: ...
def supported_isas() -> list[str]: ...
def active_isa() -> str: ...
def set_active_isa(name: str) -> None: ...
def tile_sizes() -> dict[str, int]: ...
def num_threads() -> int: ...
def set_num_threads(count: int) -> None: ...
def set_default_threads(count: int) -> None: ...
def exchange_thread_override(count: int) -> int: ...

class MemoryHold:
    def __init__(self) -> None: ...

def available_cpus() -> int: ...
def measure_fma_peak(threads: int) -> float: ...
def measure_read_bandwidth(bytes: int, threads: int) -> float: ...

# arrays of any rank
def empty(shape: Sequence[int], dtype: np.dtype[Any], channels_last: bool = False) -> NDArray[Any]: ...
def copy(input: NDArray[Any], output: NDArray[Any]) -> None: ...
def unary(name: str, input: _Array, first: float = 0.0, second: float = 0.0) -> _Array: ...
def binary(name: str, input: _Array, other: _Array) -> _Array: ...
def compare(name: str, input: NDArray[Any], other: NDArray[Any]) -> NDArray[np.bool_]: ...
def where(condition: NDArray[np.bool_], input: NDArray[Any], other: NDArray[Any]) -> NDArray[Any]: ...
def reduce(name: str, input: _Array, axes: Sequence[int], keepdim: bool = False, correction: float = 0.0) -> _Array: ...
def arg(largest: bool, input: _Array, axis: int) -> NDArray[np.int64]: ...
def take(input: NDArray[Any], axis: int, index: NDArray[np.int64]) -> NDArray[Any]: ...
def take_gradient(gradient: _Array, axis: int, index: NDArray[np.int64], size: int) -> _Array: ...
def take_along(input: NDArray[Any], axis: int, index: NDArray[np.int64]) -> NDArray[Any]: ...
def take_along_gradient(gradient: _Array, axis: int, index: NDArray[np.int64], size: int) -> _Array: ...
def put_along(values: _Array, axis: int, index: NDArray[np.int64], size: int) -> _Array: ...
def matmul(input: _Array, other: _Array) -> _Array: ...
def cumsum(input: _Array, axis: int, reverse: bool = False) -> _Array: ...
def topk(input: _Array, axis: int, k: int, largest: bool = True) -> tuple[_Array, NDArray[np.int64]]: ...
def softmax(input: _Array, axis: int, log: bool) -> _Array: ...
def softmax_gradient(output: _Array, gradient: _Array, axis: int, log: bool) -> _Array: ...

# losses
def cross_entropy(logits: _Array, target: NDArray[Any], weight: _Array, own: float, others: float) -> _Array: ...
def cross_entropy_gradient(
    logits: _Array, target: NDArray[Any], weight: _Array, own: float, others: float, gradient: _Array
) -> _Array: ...

# layout
def to_channels_last(input: _Array) -> _Array: ...
def to_nchw(input: _Array) -> _Array: ...
def cat(tensors: list[_Array], dim: int, shape: _Shape4) -> _Array: ...
def interleave(tensors: Sequence[_Array]) -> _Array: ...
def pixel_shuffle(input: _Array, factor: int) -> _Array: ...
def pixel_unshuffle(input: _Array, factor: int) -> _Array: ...
def resample(
    input: _Array,
    matrix: Sequence[float],
    size: _Pair,
    field: _Array | None,
    border: str,
    fill: float,
    samples: int,
) -> _Array: ...
def resize(input: _Array, axes: Sequence[tuple[NDArray[np.int64], _Array]]) -> _Array: ...
def grid_sample(input: _Array, grid: _Array, mode: str, outside: str, align_corners: bool) -> _Array: ...
def grid_sample_gradient(
    input: _Array,
    grid: _Array,
    gradient: _Array,
    mode: str,
    outside: str,
    align_corners: bool,
    of_input: bool,
    of_grid: bool,
) -> tuple[_Array | None, _Array | None]: ...

# convolution
class PackedWeight:
    def __init__(
        self,
        weight: _Array,
        groups: int,
        algorithm: str,
        factor: NDArray[np.float64] | None = None,
        flat: bool = False,
        slices: int = 0,
    ) -> None: ...
    @property
    def shape(self) -> tuple[int, ...]: ...
    @property
    def groups(self) -> int: ...
    @property
    def isa(self) -> str: ...
    @property
    def nbytes(self) -> int: ...
    @property
    def reversible(self) -> bool: ...
    def unpack(self) -> _Array: ...

def conv2d(
    input: _Array,
    weight: PackedWeight,
    bias: _Array | None,
    stride: _Pair,
    padding: _Sides,
    dilation: _Pair,
    algorithm: str,
    activation: str,
    slope: float,
    residual: _Array | None,
) -> _Array: ...
def conv3d(
    input: _Array,
    geometry: Conv3dGeometry,
    weight: PackedWeight,
    bias: _Array | None,
    activation: str,
    slope: float,
    residual: _Array | None,
) -> _Array: ...
def conv2d_input_gradient(
    gradient: _Array,
    weight: _Array,
    input: _Shape4,
    stride: _Pair,
    padding: _Sides,
    dilation: _Pair,
    groups: int,
) -> _Array: ...
def conv2d_weight_gradient(
    gradient: _Array,
    input: _Array,
    weight: _Shape4,
    stride: _Pair,
    padding: _Sides,
    dilation: _Pair,
    groups: int,
) -> _Array: ...
def conv2d_bias_gradient(gradient: _Array) -> _Array: ...
def conv2d_shape(
    input: _Shape4, weight: _Shape4, stride: _Pair, padding: _Sides, dilation: _Pair, groups: int
) -> _Shape4: ...
def explain_conv2d(
    input: _Shape4, weight: _Shape4, stride: _Pair, padding: _Sides, dilation: _Pair, groups: int, algorithm: str
) -> list[tuple[str, str]]: ...
def conv2d_algorithms() -> list[str]: ...

# transposed convolution
class TransposedWeight:
    """Weights in the order in which the kernels of transposed convolution read them."""

    def __init__(self, weight: _Array, stride: _Pair, dilation: _Pair, groups: int, algorithm: str) -> None: ...
    @property
    def shape(self) -> _Shape4: ...
    @property
    def groups(self) -> int: ...
    @property
    def isa(self) -> str: ...
    @property
    def nbytes(self) -> int: ...

def conv_transpose2d(
    input: _Array,
    weight: TransposedWeight,
    bias: _Array | None,
    stride: _Pair,
    padding: _Sides,
    output_padding: _Pair,
    dilation: _Pair,
    groups: int,
    activation: str,
    slope: float,
) -> _Array: ...
def conv_transpose2d_geometry(
    input: _Shape4,
    weight: _Shape4,
    stride: _Pair,
    padding: _Sides,
    output_padding: _Pair,
    dilation: _Pair,
    groups: int,
) -> Conv2dGeometry: ...
def cheapest_conv_transpose2d(geometry: Conv2dGeometry, winograd: bool) -> str: ...

# linear
def linear(input: _Array, weight: PackedWeight, bias: _Array | None, activation: str, slope: float) -> _Array: ...
def linear_unpacked(input: _Array, weight: _Array, bias: _Array | None, activation: str, slope: float) -> _Array: ...
def linear_input_gradient(gradient: _Array, weight: _Array) -> _Array: ...

# element-wise operations; arrays of four dimensions
def activation(input: _Array, name: str, slope: float) -> _Array: ...
def activation_gradient(kept: _Array, gradient: _Array, name: str, slope: float, from_output: bool) -> _Array: ...
def add(input: _Array, other: _Array, activation: str, slope: float) -> _Array: ...
def scale(input: _Array, scale: _Array) -> _Array: ...
def scale_scale_gradient(input: _Array, gradient: _Array, shared: bool) -> _Array: ...

# optimisers; contiguous arrays, dst, first and second are written
def optimizer_step(
    rule: str,
    src: _Array,
    dst: _Array,
    first: _Array | None,
    second: _Array | None,
    segments: list[tuple[int, _Array, float, float, float]],
    *,
    gradient_factor: float = 1.0,
    momentum: float = 0.0,
    average: float = 0.0,
    fresh: float = 0.0,
    correction: float = 1.0,
    eps: float = 0.0,
) -> None: ...
def sum_of_squares(arrays: list[_Array]) -> float: ...

# normalisation
def batch_norm(
    input: _Array,
    running_mean: _Array,
    running_var: _Array,
    weight: _Array | None,
    bias: _Array | None,
    eps: float,
) -> _Array: ...
def batch_norm_moments(input: _Array) -> tuple[NDArray[np.float64], NDArray[np.float64]]: ...
def batch_norm_apply(
    input: _Array,
    mean: NDArray[np.float64],
    var: NDArray[np.float64],
    weight: _Array | None,
    bias: _Array | None,
    eps: float,
    activation: str,
    slope: float,
    residual: _Array | None,
) -> _Array: ...
def batch_norm_train(
    input: _Array,
    weight: _Array | None,
    bias: _Array | None,
    eps: float,
    activation: str = ...,
    slope: float = ...,
    residual: _Array | None = None,
) -> tuple[_Array, NDArray[np.float64], NDArray[np.float64]]: ...

# Of input, weight, bias and residual. When a residual was added and an activation followed, `output` tells what to
# differentiate it at, or `residual` where the output does not (silu, hardswish, leaky_relu with a negative slope).
def batch_norm_gradient(
    input: _Array,
    gradient: _Array,
    mean: NDArray[np.float64],
    var: NDArray[np.float64],
    weight: _Array | None,
    bias: _Array | None,
    eps: float,
    activation: str = ...,
    slope: float = ...,
    output: _Array | None = None,
    residual: _Array | None = None,
    training: bool = True,
    of_input: bool = True,
    of_vectors: bool = True,
    of_residual: bool = False,
) -> tuple[_Array | None, _Array | None, _Array | None, _Array | None]: ...
def group_norm(
    input: _Array, groups: int, weight: _Array | None, bias: _Array | None, eps: float
) -> tuple[_Array, NDArray[np.float64], NDArray[np.float64]]: ...
def group_norm_gradient(
    input: _Array,
    gradient: _Array,
    groups: int,
    mean: NDArray[np.float64],
    var: NDArray[np.float64],
    weight: _Array | None,
    eps: float,
    of_input: bool,
    of_vectors: bool,
) -> tuple[_Array | None, _Array | None, _Array | None]: ...
def layer_norm(
    input: _Array, weight: _Array | None, bias: _Array | None, eps: float, centered: bool = True
) -> _Array: ...
def layer_norm_gradient(
    input: _Array,
    gradient: _Array,
    weight: _Array | None,
    eps: float,
    centered: bool,
    of_input: bool,
    of_vectors: bool,
) -> tuple[_Array | None, _Array | None, _Array | None]: ...
def local_response_norm(input: _Array, size: int, alpha: float, beta: float, k: float) -> _Array: ...
def local_response_norm_gradient(
    input: _Array, gradient: _Array, size: int, alpha: float, beta: float, k: float
) -> _Array: ...

# pooling
def max_pool2d_gradient(
    gradient: _Array,
    places: NDArray[np.int32],
    input: _Shape4,
    kernel: _Pair,
    stride: _Pair,
    padding: _Sides,
    dilation: _Pair,
    ceil_mode: bool,
) -> _Array: ...
def avg_pool2d_gradient(
    gradient: _Array,
    input: _Shape4,
    kernel: _Pair,
    stride: _Pair,
    padding: _Sides,
    ceil_mode: bool,
    count_include_pad: bool,
    divisor_override: int | None,
) -> _Array: ...
def adaptive_max_pool2d_gradient(
    gradient: _Array, places: NDArray[np.int32], input: _Shape4, output: _Pair
) -> _Array: ...
def adaptive_avg_pool2d_gradient(gradient: _Array, input: _Shape4, output: _Pair) -> _Array: ...

# What the gradients of maxima need: the maxima and their places h * W + w in 32 bits, -1 for windows in the padding.
def max_pool2d_places(
    input: _Array, kernel: _Pair, stride: _Pair, padding: _Sides, dilation: _Pair, ceil_mode: bool
) -> tuple[_Array, NDArray[np.int32]]: ...
def adaptive_max_pool2d_places(op: str, input: _Array, output: _Pair) -> tuple[_Array, NDArray[np.int32]]: ...
def places_in_volumes(within: NDArray[np.int64], rows: NDArray[np.int64], plane: int) -> NDArray[np.int64]: ...
def max_pool2d(
    input: _Array, kernel: _Pair, stride: _Pair, padding: _Sides, dilation: _Pair, ceil_mode: bool, return_indices: bool
) -> _Array | tuple[_Array, NDArray[np.int64]]: ...
def avg_pool2d(
    input: _Array,
    kernel: _Pair,
    stride: _Pair,
    padding: _Sides,
    ceil_mode: bool,
    count_include_pad: bool,
    divisor_override: int | None,
) -> _Array: ...
def lp_pool2d(input: _Array, norm_type: float, kernel: _Pair, stride: _Pair, ceil_mode: bool) -> _Array: ...
def adaptive_avg_pool2d(op: str, input: _Array, output: _Pair) -> _Array: ...
def adaptive_max_pool2d(
    op: str, input: _Array, output: _Pair, return_indices: bool
) -> _Array | tuple[_Array, NDArray[np.int64]]: ...
def pool2d_shape(
    op: str, input: _Shape4, kernel: _Pair, stride: _Pair, padding: _Sides, dilation: _Pair, ceil_mode: bool
) -> _Shape4: ...
def adaptive_pool2d_shape(op: str, input: _Shape4, output: _Pair) -> _Shape4: ...

# im2col
def im2col(input: _Array, kernel: _Pair, stride: _Pair, padding: _Sides, dilation: _Pair) -> _Array: ...
def col2im(input: _Array, image: _Shape4, kernel: _Pair, stride: _Pair, padding: _Sides, dilation: _Pair) -> _Array: ...
def im2col_shape(
    op: str, image: _Shape4, kernel: _Pair, stride: _Pair, padding: _Sides, dilation: _Pair
) -> tuple[int, int, int]: ...

# compiled networks
class Conv3dGeometry:
    def __init__(
        self, input: _Shape5, weight: _Shape5, stride: _Triple, padding: _Faces, dilation: _Triple, groups: int
    ) -> None: ...
    @property
    def shape(self) -> _Shape5: ...
    @property
    def multiply_adds(self) -> int: ...
    def cheapest(self, winograd: bool) -> str: ...

class Conv2dGeometry:
    def __init__(
        self, input: _Shape4, weight: _Shape4, stride: _Pair, padding: _Sides, dilation: _Pair, groups: int
    ) -> None: ...
    @property
    def input(self) -> _Shape4: ...
    @property
    def weight(self) -> _Shape4: ...
    @property
    def shape(self) -> _Shape4: ...
    @property
    def stride(self) -> _Pair: ...
    @property
    def padding(self) -> _Sides: ...
    @property
    def dilation(self) -> _Pair: ...
    @property
    def groups(self) -> int: ...
    @property
    def is_pointwise(self) -> bool: ...
    @property
    def is_depthwise(self) -> bool: ...
    @property
    def multiply_adds(self) -> int: ...
    def cheapest(self, winograd: bool) -> str: ...
    def candidates(self, winograd: bool) -> list[str]: ...
    def explain(self, algorithm: str) -> list[tuple[str, str]]: ...

class PoolGeometry:
    def __init__(
        self,
        op: str,
        kind: str,
        input: _Shape4,
        kernel: _Pair,
        stride: _Pair,
        padding: _Sides,
        dilation: _Pair,
        ceil_mode: bool,
        count_include_pad: bool = True,
        divisor_override: int | None = None,
        norm_type: float = 0.0,
    ) -> None: ...
    @staticmethod
    def adaptive(op: str, kind: str, input: _Shape4, output: _Pair) -> PoolGeometry: ...
    @property
    def shape(self) -> _Shape4: ...
    @property
    def kernel(self) -> _Pair: ...
    @property
    def stride(self) -> _Pair: ...
    @property
    def padding(self) -> _Sides: ...

def may_pool_in_cache(convolution: Conv2dGeometry, pool: PoolGeometry) -> bool: ...
def pooled_from(algorithm: str, pool: PoolGeometry) -> str: ...

_Sizes: TypeAlias = tuple[int, ...]
_Type: TypeAlias = tuple[str, _Sizes, _Sizes]  # float32, int64 or bool; shape and strides
# arena, input or output; which input or output, offset in bytes; type; or an array, which is a constant
_Operand: TypeAlias = tuple[str, int, int, str, _Sizes, _Sizes] | NDArray[Any]

def new_array(type: _Type) -> NDArray[Any]: ...

# Offsets for results that are there from a first step to a last, of a size: the lowest for each in turn.
def place_results(lives: Sequence[tuple[int, int, int]]) -> list[int]: ...

# What runs need, which the plans of one network share.
class PlanMemory:
    def __init__(self) -> None: ...
    def limit(self, most: int) -> None: ...
    @property
    def nbytes(self) -> int: ...

class Plan:
    def __init__(self, inputs: Sequence[_Type], outputs: Sequence[_Type], arena_bytes: int, threads: int) -> None: ...
    def append(
        self,
        op: str,
        inputs: Sequence[_Operand],
        outputs: Sequence[_Operand],
        attributes: Mapping[str, Any] = ...,
        weights: Mapping[str, Any] = ...,
    ) -> None: ...
    @property
    def arena_bytes(self) -> int: ...
    @property
    def scratch_bytes(self) -> int: ...
    @property
    def memory_bytes(self) -> int: ...
    @property
    def threads(self) -> int: ...
    @property
    def steps(self) -> int: ...
    def run(self, inputs: Sequence[NDArray[Any]], outputs: Sequence[NDArray[Any]], memory: PlanMemory) -> None: ...
    def profile(
        self, inputs: Sequence[NDArray[Any]], outputs: Sequence[NDArray[Any]], memory: PlanMemory
    ) -> list[float]: ...
