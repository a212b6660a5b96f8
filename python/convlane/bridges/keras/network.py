"""A network read from a Keras file: a module whose layers are called as its configuration says."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

from numpy.typing import NDArray

from convlane.bridges.keras.configuration import Call, ModelSpec, Ref, refs_in
from convlane.bridges.keras.value import Value, last_second
from convlane.functional._arguments import Array
from convlane.nn.module import Module
from convlane.nn.packing import PackingModule


class Layer(PackingModule):
    """A layer of Keras: its arrays, and how it computes with them.

    It is called by the network it belongs to, which knows the order of the arrays' axes.
    """

    if TYPE_CHECKING:  # a converter knows which arrays it has given its layer

        def __getattr__(self, name: str) -> Any: ...

    def __init__(
        self,
        kind: str,
        run: Callable[..., Value],
        parameters: Mapping[str, Array | None] | None = None,
        buffers: Mapping[str, NDArray[Any]] | None = None,
        packing: Callable[[Array], Any] | None = None,
        details: str = "",
    ) -> None:
        self.kind, self.run, self.packing, self.details = kind, run, packing, details
        for name, array in (parameters or {}).items():
            self.register_parameter(name, array)
        for name, array in (buffers or {}).items():
            self.register_buffer(name, array)

    def forward(self, *args: Any, orders: list[bool] | None = None, **kwargs: Any) -> Any:
        """Run the layer on values of its network; the order of the result's axes is added to `orders`."""
        if orders is None:
            raise TypeError(f"{self.kind}: only the whole network can be called, not one of its layers")
        result = self.run(self, *args, **kwargs)
        orders.append(result.moved)
        return result.array

    def pack(self, weight: Array) -> Any:
        """Pack the weight as the layer's operation reads it."""
        return weight if self.packing is None else self.packing(weight)

    def extra_repr(self) -> str:
        """Return what `repr` shows of the layer in brackets."""
        return self.details

    def __repr__(self) -> str:
        return self.kind + super().__repr__().removeprefix(type(self).__name__)


class Input(NamedTuple):
    """An input of a network."""

    name: str
    shape: tuple[int | None, ...] | None
    """As the network takes it, with None for open sizes."""


class Step(NamedTuple):
    """One call of a layer."""

    call: Call
    attribute: str
    """Attribute of the network that holds the layer."""
    done: tuple[tuple[str, int], ...]
    """Calls whose results have no readers after it."""


class Network(Module):
    """A network of Keras, made by `convlane.load_keras`."""

    def __init__(self, model: ModelSpec, layers: Mapping[str, Module], channels_first: bool) -> None:
        self.name, self.kind = model.name, model.kind
        self.channels_first = channels_first
        self._specs, self._template = model.inputs, model.outputs
        attributes = {}
        for name, layer in layers.items():
            attribute = name.replace(".", "_")
            while hasattr(self, attribute):
                attribute += "_"
            setattr(self, attribute, layer)
            attributes[name] = attribute
        self._steps = _steps(model, attributes)
        self.eval()

    @property
    def inputs(self) -> tuple[Input, ...]:
        """What it takes, in convlane's order of axes."""
        return tuple(Input(each.name, self._outside(each.shape)) for each in self._specs)

    def _outside(self, shape: Any) -> Any:
        if shape is None or len(shape) < 3 or self.channels_first:
            return shape
        return (shape[0], shape[-1], *shape[1:-1])

    def forward(self, *inputs: Any, orders: list[bool] | None = None, **named: Any) -> Any:
        """Run the network.

        Parameters
        ----------
        inputs, named
            Its inputs, in order or by name.
        orders
            Set by the network around this one, which passes values, not arrays.
        """
        values = self._bound(inputs, named, orders is not None)
        results = self._run(values)
        leaves = [_result(results, ref) for ref in refs_in(self._template)]
        if orders is None:
            arrays = iter([value.in_order if self.channels_first else value.last_second for value in leaves])
            return _filled(self._template, lambda _: next(arrays))
        orders += [value.moved for value in leaves]
        return leaves[0].array if len(leaves) == 1 else tuple(value.array for value in leaves)

    def _bound(self, inputs: Sequence[Any], named: Mapping[str, Any], inner: bool) -> dict[str, Value]:
        names = [each.name for each in self._specs]
        first = inputs[0] if len(inputs) == 1 else None
        if isinstance(first, (list, tuple)):
            inputs = first
        elif isinstance(first, dict):
            inputs, named = [], first
        given = dict(zip(names, inputs, strict=False))
        if len(inputs) > len(names) or given.keys() & named.keys() or {*given, *named} != {*names}:
            got = [*([f"{len(inputs)} in order"] if inputs else []), *map(str, named)]
            raise TypeError(f"the network takes {', '.join(names)}, got {', '.join(got) or 'none'}")
        make = Value if self.channels_first else last_second
        return {name: value if inner else make(value) for name, value in {**given, **named}.items()}

    def _run(self, inputs: Mapping[str, Value]) -> dict[tuple[str, int], tuple[Value, ...]]:
        """Return the results that are left at the end, by layer and call."""
        results: dict[tuple[str, int], tuple[Value, ...]] = {(name, 0): (value,) for name, value in inputs.items()}
        found = partial(_result, results)
        for call, attribute, done in self._steps:
            layer = vars(self)[attribute]
            orders: list[bool] = []
            try:
                args, kwargs = _filled(call.args, found), _filled(call.kwargs, found)
                if isinstance(layer, (Layer, Network)):
                    arrays = layer(*args, orders=orders, **kwargs)
                    several = arrays if isinstance(arrays, tuple) else (arrays,)
                    results[call.layer, call.index] = tuple(map(Value, several, orders))
                else:  # a module with which the caller has replaced a layer
                    results[call.layer, call.index] = (last_second(layer(*(each.last_second for each in args))),)
            except (ArithmeticError, LookupError, AttributeError, TypeError, ValueError) as error:
                kind = type(error) if isinstance(error, (TypeError, ValueError)) else ValueError
                raise kind(f"{call.layer!r}: {error}") from error
            for key in done:
                results.pop(key, None)
        return results

    def __repr__(self) -> str:
        return f"{self.name}: {super().__repr__()}"


def _result(results: Mapping[tuple[str, int], tuple[Value, ...]], ref: Ref) -> Value:
    found = results[ref.layer, ref.call]
    if ref.output >= len(found):
        raise ValueError(f"{ref.layer!r} has {len(found)} results, but not number {ref.output}")
    return found[ref.output]


def _steps(model: ModelSpec, attributes: Mapping[str, str]) -> tuple[Step, ...]:
    kept = {(ref.layer, ref.call) for ref in refs_in(model.outputs)}
    last: dict[tuple[str, int], int] = {}
    for i, call in enumerate(model.calls):
        last[call.layer, call.index] = i
        last |= {(ref.layer, ref.call): i for ref in refs_in([*call.args, *call.kwargs.values()])}
    done: list[list[tuple[str, int]]] = [[] for _ in model.calls]
    for key, i in last.items():
        if key not in kept:
            done[i].append(key)
    return tuple(
        Step(call, attributes[call.layer], tuple(names)) for call, names in zip(model.calls, done, strict=True)
    )


def _filled(template: Any, found: Callable[[Ref], Any]) -> Any:
    if isinstance(template, Ref):
        return found(template)
    if isinstance(template, (list, tuple)):
        return type(template)(_filled(each, found) for each in template)
    if isinstance(template, Mapping):
        return {key: _filled(each, found) for key, each in template.items()}
    return template


def flat(args: Iterable[Any]) -> list[Value]:
    """Return the values in the arguments of a layer that takes them one by one or in a list."""
    return [value for each in args for value in (flat(each) if isinstance(each, (list, tuple)) else [each])]
