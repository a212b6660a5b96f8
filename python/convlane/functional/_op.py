"""One definition of each operation for all kinds of arguments: arrays, symbols and variables on a tape.

On arrays an operation runs at once. If any argument, or an item of a list, has `__convlane_op__` (a symbol that only
has a shape, a variable on a tape), the call is dispatched to it: ``dispatch(operation, *args, **kwargs)``. While a
`recorder` is set, every call goes to the recorder, because parameters are plain arrays even while gradients are
recorded. Everything else about an operation is declared in its decorator, `op`, and looked up with `rules`.
"""

from __future__ import annotations

import inspect
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Mapping, Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from functools import cache, wraps
from typing import Any, NamedTuple, ParamSpec, Protocol, TypeAlias, TypeVar, get_args, get_origin, get_type_hints

import numpy as np

from convlane import _core
from convlane.functional._receptive import Receptive

P = ParamSpec("P")
R = TypeVar("R")

Shape = tuple[int, ...]
DType: TypeAlias = "np.dtype[Any]"

Pullback: TypeAlias = Callable[[Any], Mapping[str, Any]]
"""Maps the gradient of the output to those of the wanted arguments, by name.

The gradient may be shared, so it must not be written to. An argument that is a sequence gets a list of gradients.
"""


Applied: TypeAlias = Callable[[Mapping[str, Any]], tuple[str, float]]
"""Maps an activation's arguments to the name and the number with which other operations apply it."""


class Geometry(NamedTuple):
    """What the choice of a convolution's algorithm depends on."""

    normalise: Callable[..., tuple[Any, ...]]
    """Maps the shapes of input and weight, stride, padding, dilation and groups to the same values, normalised."""
    core: Callable[..., Any]
    """Maps these to the object whose method ``candidates(winograd)`` lists the algorithms."""


class Recorder(Protocol):
    """Runs operations and remembers them."""

    def __call__(self, operation: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Run an operation."""

    def wants(self, array: Any) -> bool:
        """Return whether gradients are wanted for this array (by identity)."""


recorder: ContextVar[Recorder | None] = ContextVar("recorder", default=None)
"""The recorder of this thread, or None."""


def is_recorded(input: Any, weight: Any) -> bool:
    """Return whether an operation on these is traced or recorded, in which case the weight must be passed as it is."""
    record = recorder.get()
    return hasattr(type(input), "__convlane_op__") or (record is not None and record.wants(weight))


@dataclass(frozen=True)
class Traits:
    """Properties of an operation that passes, plans and summaries rely on."""

    in_place: bool = False
    """Its result needs no memory of its own: it can overwrite the input, is a view of the input, or is assembled from
    parts that can be written directly into it."""
    elementwise: bool = False
    """Each element of its result depends on the corresponding elements of its arguments, which may broadcast."""
    activation: Applied | None = None
    """Other operations can apply it to their results, with the name and the number that this returns."""
    derivative_from_output: bool = False
    """It is an activation whose derivative follows from the output."""
    parameters: frozenset[str] = frozenset()
    """Arguments that are weights of the operation if they are arrays: passes may change them."""
    reads_any_layout: bool = False
    """Its step reads the first argument, images, in any memory layout."""
    reads_slices: bool = False
    """Its step can read images that are a slice of the channels of larger ones."""
    writes_slices: bool = False
    """Its step can write its result, images, into a slice of the channels of larger ones."""
    adds_residual: bool = False
    """It adds its argument `residual` to the result before the activation, as it stores it."""
    weight_channels: int | None = None
    """For a convolution: the dimension of the weight with the output channels, per group if it is 1."""
    geometry: Geometry | None = None
    """For a convolution with several algorithms."""
    factors: str = ""
    """The name of the argument that it multiplies the channels of images by, if any."""
    averages: bool = False
    """With suitable arguments it is the mean of each channel of images."""
    identity: Callable[[Mapping[str, Any], bool], bool] | None = None
    """Returns, given the arguments and whether the shape stays the same, whether the result is the input itself."""
    keeps_order: str = ""
    """Its result has its input's elements in the same order: that of ``"indices"``, or of images in ``"memory"``."""


@dataclass(frozen=True)
class Rules:
    """What is known about an operation; all functions take the operation's own arguments.

    Whatever has a ``.shape`` stands for an array in `shape`, `dtype` and `multiply_adds`. An operation with several
    results has tuples of shapes and types. `vjp` (vector-Jacobian product) is called with the names of the arguments
    whose gradients are wanted, all of them `differentiable`, then with all arguments by name; it returns the output
    (an array, or a `Pending` one; of a tuple, only the first item has a gradient) and its pullback. A string instead of
    a rule is the reason why there is none.
    """

    shape: Callable[..., Any]
    dtype: Callable[..., Any]
    multiply_adds: Callable[..., int]
    """Takes the shape of the result before the arguments."""
    vjp: Callable[..., tuple[Any, Pullback]] | str | None
    differentiable: frozenset[str]
    traits: Traits
    receptive: Receptive | str | None
    compiles: str
    """Why plans cannot run it; empty if they can."""


class Pending(ABC):
    """An output that has not been computed yet, so that the next operation can be fused into its pass over memory."""

    shape: Shape

    @abstractmethod
    def compute(self) -> Any:
        """Return the output as an array."""

    @abstractmethod
    def then(self, operation: str, arguments: Mapping[str, Any], wanted: frozenset[str]) -> tuple[Any, Pullback] | None:
        """Return the result of `operation` on the output, or None if the two cannot be fused.

        In `arguments` the pending output represents itself; `wanted` names the other arguments whose gradients are
        wanted. The pullback covers both operations: its keys are those of this output's own pullback, and
        ``operation.name`` for the wanted arguments of the second.
        """


ACTIVATIONS: dict[str, Applied] = {}
"""The activations that other operations can apply to their results, and how to apply them; from the traits."""

DERIVATIVE_FROM_OUTPUT: set[str] = set()
"""The activations whose derivative follows from the output."""

_RULES: dict[Callable[..., Any], Rules] = {}
_TRAITS: dict[str, Traits] = {}


def same_shape(input: Any, *args: Any, **kwargs: Any) -> Shape:
    """Shape rule of an element-wise operation."""
    return tuple(input.shape)


def float32(*args: Any, **kwargs: Any) -> DType:
    """Type rule of an operation that computes new numbers."""
    return _FLOAT32


def same_dtype(input: Any, *args: Any, **kwargs: Any) -> DType:
    """Type rule of an operation that moves the numbers of its first argument, an array or a sequence of them."""
    first = input[0] if isinstance(input, (list, tuple)) else input
    dtype: DType = first.dtype
    return dtype


def boolean(*args: Any, **kwargs: Any) -> DType:
    """Type rule of a comparison."""
    return _BOOL


def int64(*args: Any, **kwargs: Any) -> DType:
    """Type rule of an operation that returns indices."""
    return _INT64


_FLOAT32, _BOOL, _INT64 = np.dtype(np.float32), np.dtype(np.bool_), np.dtype(np.int64)


def item_name(argument: str, i: int) -> str:
    """Return the name of an item of an argument that is a sequence."""
    return f"{argument}[{i}]"


def split_name(name: str) -> tuple[str, int | None]:
    """Return the argument that a name refers to and, for an item of a sequence, its index."""
    argument, bracket, i = name.partition("[")
    return argument, int(i[:-1]) if bracket else None


def check_vector(op: str, name: str, vector: Any, size: int, input_shape: Shape = ()) -> None:
    """Raise a ValueError unless a vector is None or has one number for each of `size` channels."""
    if vector is None or tuple(vector.shape) == (size,):
        return
    shape = tuple(vector.shape)
    of = f", for the {size} channels of input (N, C, ...) of shape {input_shape}" if input_shape else ""
    single = len(input_shape) > 2 and shape == input_shape[:1]
    hint = f"; a single example needs a batch in front: {(1, *input_shape)}" if single else ""
    raise ValueError(f"{op}: {name} must have shape ({size},), got {shape}{of}{hint}")


def none(*args: Any, **kwargs: Any) -> int:
    """Cost rule of an operation whose multiply-adds are not worth counting."""
    return 0


def op(
    *,
    shape: Callable[..., Any],
    dtype: Callable[..., Any] = float32,
    multiply_adds: Callable[..., int] = none,
    vjp: Callable[..., tuple[Any, Pullback]] | str | None = None,
    differentiable: Collection[str] = ("input",),
    traits: Traits = Traits(),
    receptive: Receptive | str | None = None,
    compiles: str = "",
) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Turn a function into an operation: the types of its arguments and the thread's recorder decide what runs it.

    The parameters are those of `Rules`.
    """

    def decorate(forward: Callable[P, R]) -> Callable[P, R]:
        # inspect.signature would also do, but would take a tenth of the time of `import convlane`.
        code, annotations = forward.__code__, forward.__annotations__
        parameters = code.co_varnames[: code.co_argcount + code.co_kwonlyargcount]
        names = frozenset(  # the arguments that may be arrays; only these are checked
            n for n in parameters if n not in annotations or any(kind in annotations[n] for kind in _KINDS)
        )
        positions = max((i for i, name in enumerate(parameters, 1) if name in names), default=0)

        @wraps(forward)
        def operation(*args: P.args, **kwargs: P.kwargs) -> R:
            for value in args[:positions]:
                if type(value) not in _PLAIN and (dispatch := _dispatch_of(value)) is not None:
                    return dispatch(operation, *args, **kwargs)  # type: ignore[no-any-return]
            if kwargs and not names.isdisjoint(kwargs):
                for value in kwargs.values():
                    if type(value) not in _PLAIN and (dispatch := _dispatch_of(value)) is not None:
                        return dispatch(operation, *args, **kwargs)  # type: ignore[no-any-return]
            record = recorder.get()
            try:
                return forward(*args, **kwargs) if record is None else record(operation, *args, **kwargs)
            except MemoryError as error:
                raise MemoryError(f"{forward.__name__}: {error}") from None
            except _core.SizeOverflow as error:
                raise ValueError(f"{forward.__name__}: {error}") from None

        _RULES[operation] = Rules(
            shape, dtype, multiply_adds, vjp, frozenset(differentiable), traits, receptive, compiles
        )
        _TRAITS[forward.__name__] = traits
        if traits.activation is not None:
            ACTIVATIONS[forward.__name__] = traits.activation
        if traits.derivative_from_output:
            DERIVATIVE_FROM_OUTPUT.add(forward.__name__)
        return operation

    return decorate


_KINDS = ("Array", "Tensor", "Bools", "Indices")
"""The names of the array types in `_arguments`."""

_PLAIN = {np.ndarray, int, float, bool, str, type(None), _core.PackedWeight, _core.TransposedWeight}
"""The types of most arguments, none of which dispatches."""


def _dispatch_of(value: Any) -> Callable[..., Any] | None:
    """Return the dispatcher of an argument, or of an item of a list or tuple, if there is one."""
    kind = type(value)
    if kind is list or kind is tuple:
        if value and type(value[0]) is int:  # sizes, the most frequent case
            return None
        for item in value:
            if type(item) not in _PLAIN and (dispatch := _dispatch_of(item)) is not None:
                return dispatch
        return None
    return getattr(kind, "__convlane_op__", None)


def rules(operation: Callable[..., Any]) -> Rules:
    """Return the rules of an operation of `convlane.functional`."""
    return _RULES[operation]


def traits_named(name: str) -> Traits:
    """Return the traits of the operation of this name, or traits that allow nothing if there is none."""
    return _TRAITS.get(name, _NO_TRAITS)


_NO_TRAITS = Traits()


def operations() -> dict[str, Callable[..., Any]]:
    """Return all operations by their names, which are also those of nodes in a graph."""
    return {operation.__name__: operation for operation in _RULES}


def unless_shape_changes(arguments: Mapping[str, Any], same_shape: bool) -> bool:
    """Identity rule of an operation that returns its input if the shape stays the same."""
    return same_shape


@cache
def hints_of(operation: Callable[..., Any]) -> Mapping[str, Any]:
    """Return the annotated types of an operation's arguments."""
    return get_type_hints(operation)


@cache
def operands_of(operation: Callable[..., Any]) -> frozenset[str]:
    """Return the arguments that may be arrays and are not weights of the operation."""
    hints = hints_of(operation)
    arrays = {name for name in signature_of(operation).parameters if name not in hints or _may_be_array(hints[name])}
    return frozenset(arrays) - rules(operation).traits.parameters


def _may_be_array(hint: Any) -> bool:
    return get_origin(hint) is np.ndarray or any(map(_may_be_array, get_args(hint)))


@cache
def _defaults_of(operation: Callable[..., Any]) -> tuple[tuple[str, ...], Mapping[str, Any]]:
    """Return the names of the positional arguments, and the defaults of all arguments."""
    parameters = signature_of(operation).parameters
    ordered = tuple(name for name, each in parameters.items() if each.kind is each.POSITIONAL_OR_KEYWORD)
    return ordered, {name: each.default for name, each in parameters.items()}


def bound(operation: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """Return all arguments of a call by name, in the order of the signature, with their defaults.

    Raises
    ------
    TypeError
        If an argument is missing, given twice or unknown.
    """
    ordered, defaults = _defaults_of(operation)
    given = {**defaults, **dict(zip(ordered, args, strict=False)), **kwargs}
    twice = kwargs and not kwargs.keys().isdisjoint(ordered[: len(args)])
    missing = any(value is inspect.Parameter.empty for value in given.values())
    if twice or missing or len(args) > len(ordered) or len(given) > len(defaults):
        return dict(signature_of(operation).bind(*args, **kwargs).arguments)  # raises an error that says what is wrong
    return given


@cache
def signature_of(operation: Callable[..., Any]) -> inspect.Signature:
    """Return the signature of an operation."""
    return inspect.signature(operation)
