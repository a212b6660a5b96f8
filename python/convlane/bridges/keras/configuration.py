"""What the configuration of a Keras network says: its layers, their settings, and which is called on whose results.

It comes from a file and is nothing but data: numbers, strings, lists and dicts, each of which is checked when it is
read. Nothing in it names code that would be run.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple, NoReturn, TypeAlias

import numpy as np

from convlane.onnx import LoadError
from convlane.safetensors_file import shown

MODELS = frozenset({"Functional", "Model", "Sequential"})
"""Classes that hold layers."""

_OPERATIONS = ("keras.src.ops", "keras.src.activations")
_PACKAGES = ("keras", "tf_keras", "tensorflow")
# Functions of TensorFlow that Keras 2 writes into models, as operations of Keras 3.
_OF_TENSORFLOW = {
    **dict.fromkeys(("math.add", "__operators__.add"), "Add"),
    **dict.fromkeys(("math.subtract", "__operators__.sub"), "Subtract"),
    **dict.fromkeys(("math.multiply", "__operators__.mul"), "Multiply"),
    **dict.fromkeys(("math.truediv", "math.divide", "__operators__.truediv"), "Divide"),
    **{f"math.{name}": name.capitalize() for name in ("maximum", "minimum", "abs", "square", "sqrt", "rsqrt", "exp")},
    **{f"nn.{name}": name.capitalize() for name in ("relu", "relu6", "selu", "elu", "softplus", "softsign", "silu")},
    **dict.fromkeys(("nn.sigmoid", "math.sigmoid"), "Sigmoid"),
    **dict.fromkeys(("nn.tanh", "math.tanh"), "Tanh"),
    "math.negative": "Negative",
    "nn.swish": "Silu",
}
_MOST_LAYERS = 10_000
_MOST_CALLS = 20_000  # of layers in one run, those in models that are called several times counted each time
_DEEPEST = 16  # models within models, lists within lists
_LARGEST = 2**24  # sizes, strides, repetitions
_MOST_CONSTANT = 1 << 20  # numbers in an array within the configuration

Shape: TypeAlias = "tuple[int | None, ...]"


class Ref(NamedTuple):
    """The result of a call of a layer."""

    layer: str
    call: int
    output: int = 0


@dataclass(frozen=True)
class Call:
    """One call of a layer: its arguments are `Ref`, plain values, and lists and dicts of these."""

    layer: str
    index: int
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any] = field(default_factory=dict)


class Config:
    """The settings of one layer. An invalid one is an error that names the layer and the setting."""

    def __init__(self, name: str, kind: str, values: Mapping[str, Any], version: int = 3) -> None:
        self.name, self.kind, self.version = name, kind, version
        self._values = values

    def __contains__(self, key: str) -> bool:
        return key in self._values

    def get(self, key: str, default: Any = None) -> Any:
        """Return a setting as it is in the file."""
        return self._values.get(key, default)

    def fail(self, text: str) -> NoReturn:
        """Raise an error about this layer."""
        raise LoadError(f"{self.name!r} ({self.kind}): {text}")

    def _wrong(self, key: str, expected: str) -> NoReturn:
        self.fail(f"{key} must be {expected}, got {shown(self.get(key))}")

    def integer(self, key: str, default: int | None = None, least: int = 1) -> int:
        """Return an integer that is at least `least`."""
        value = self.get(key, default)
        if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= _LARGEST:
            self._wrong(key, f"an integer from {least} to {_LARGEST}")
        return value

    def integers(self, key: str, count: int | None, default: Any = None, least: int = 1) -> tuple[int, ...]:
        """Return `count` integers; a single one stands for all."""
        value = self.get(key, default)
        if isinstance(value, int) and not isinstance(value, bool) and count is not None:
            value = [value] * count
        if (
            not isinstance(value, (list, tuple))
            or (count is not None and len(value) != count)
            or len(value) > _DEEPEST
            or any(isinstance(each, bool) or not isinstance(each, int) for each in value)
            or any(not least <= each <= _LARGEST for each in value)
        ):
            self._wrong(key, f"{'' if count is None else f'{count} '}integers from {least} to {_LARGEST}")
        return tuple(value)

    def number(self, key: str, default: float | None = None) -> float:
        """Return a finite number."""
        value = self.get(key, default)
        if isinstance(value, dict):  # as Keras writes NumPy's scalars
            inner = value.get("config")
            value = inner.get("value") if isinstance(inner, dict) else inner
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
            self._wrong(key, "a finite number")
        return float(value)

    def flag(self, key: str, default: bool) -> bool:
        """Return a setting that is true or false."""
        value = self.get(key, default)
        if not isinstance(value, bool):
            self._wrong(key, "true or false")
        return value

    def word(self, key: str, choices: Sequence[str], default: str | None = None) -> str:
        """Return a setting that is one of several words."""
        value = self.get(key, default)
        if not isinstance(value, str) or value not in choices:
            self._wrong(key, f"one of {', '.join(choices)}")
        return value

    def pairs(self, key: str, count: int, default: Any) -> tuple[tuple[int, int], ...]:
        """Return a pair for each axis: what is added, or cropped, before and after it."""
        value = self.get(key, default)
        each = value if isinstance(value, (list, tuple)) else [value] * count
        if count == 1 and len(each) == 2:
            each = [each]
        found = [tuple(pair) if isinstance(pair, (list, tuple)) else (pair, pair) for pair in each]
        if len(found) != count or any(
            len(pair) != 2 or any(isinstance(n, bool) or not isinstance(n, int) or not 0 <= n <= _LARGEST for n in pair)
            for pair in found
        ):
            self._wrong(key, f"{count} pairs of integers from 0 to {_LARGEST}")
        return tuple(found)

    @property
    def channel_axis(self) -> int:
        """The axis of the channels by `data_format`."""
        last = self.word("data_format", ("channels_last", "channels_first"), "channels_last") == "channels_last"
        return -1 if last else 1


@dataclass(frozen=True)
class LayerSpec:
    """A layer of a model, or a model within it."""

    config: Config
    is_operation: bool = False
    """One of `keras.ops`, which a functional model holds like a layer."""
    model: ModelSpec | None = None

    @property
    def name(self) -> str:
        """The name."""
        return self.config.name

    @property
    def kind(self) -> str:
        """The class."""
        return self.config.kind

    @property
    def trainable(self) -> bool:
        """Whether its weights were trainable when it was saved."""
        return self.config.get("trainable", True) is not False


@dataclass(frozen=True)
class InputSpec:
    """What a model takes."""

    name: str
    shape: Shape | None
    """With the batch, as in Keras; None for an open size, or for the shape if the file has none."""


@dataclass(frozen=True)
class ModelSpec:
    """A model: layers, their calls in an order in which they can run, its inputs and its outputs."""

    name: str
    kind: str
    layers: tuple[LayerSpec, ...]
    calls: tuple[Call, ...]
    inputs: tuple[InputSpec, ...]
    outputs: Any
    """Lists and dicts of `Ref`."""
    count: int
    """Calls of layers in one run, including those in nested models."""

    def extra_calls(self) -> Iterator[tuple[LayerSpec, Call]]:
        """Yield the calls that pass a layer more arguments than its inputs, including those in nested models."""
        specs = {spec.name: spec for spec in self.layers}
        for call in self.calls:
            spec = specs[call.layer]
            if call.kwargs and not spec.is_operation:
                yield spec, call
        for spec in self.layers:
            if spec.model is not None:
                yield from spec.model.extra_calls()

    def leaves(self, trainable: bool = True) -> Iterator[tuple[LayerSpec, bool]]:
        """Yield all layers except models, and whether they and all models around them are trainable."""
        for layer in self.layers:
            if layer.model is not None:
                yield from layer.model.leaves(trainable and layer.trainable)
            else:
                yield layer, trainable and layer.trainable

    def formats(self) -> set[str]:
        """Return all values that layers have for `data_format`."""
        return {str(layer.config.get("data_format")) for layer, _ in self.leaves() if "data_format" in layer.config}


def read_model(data: Any, version: int, depth: int = 0) -> ModelSpec:
    """Return what a configuration says."""
    kind, values = _class_of(data)
    if kind not in MODELS:
        raise LoadError(
            f"its class is {shown(kind)}; models that describe their layers can be read: {', '.join(sorted(MODELS))}"
        )
    if depth > _DEEPEST:
        raise LoadError(f"it has models within models more than {_DEEPEST} deep")
    if kind == "Sequential":
        return _sequential(values, version, depth)
    return _functional(_mapping(values, "its configuration"), version, depth)


def _class_of(data: Any) -> tuple[str, Any]:
    data = _mapping(data, "its configuration")
    kind, values = data.get("class_name"), data.get("config")
    if not isinstance(kind, str):
        raise LoadError(f"its configuration has no class_name but {shown(kind)}")
    module, registered = data.get("module"), data.get("registered_name")
    if registered not in (None, kind):
        return str(registered), values
    if module is not None and str(module).split(".")[0] not in _PACKAGES:
        return f"{module}.{kind}", values  # somebody else's class of the same name
    return kind, values


def _mapping(value: Any, what: str) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise LoadError(f"{what} must be a dict, got {shown(value)}")
    return value


def _list(value: Any, what: str, most: int = _MOST_LAYERS) -> list[Any]:
    if not isinstance(value, list) or len(value) > most:
        raise LoadError(f"{what} must be a list of at most {most}, got {shown(value)}")
    return value


def _layer(data: Any, version: int, depth: int) -> LayerSpec:
    kind, values = _class_of(data)
    given = values if isinstance(values, dict) else {}
    name = data.get("name") or given.get("name")
    if not isinstance(name, str) or not name:
        raise LoadError(f"a layer of class {shown(kind)} has no name but {shown(name)}")
    if kind in MODELS:
        model = read_model(data, version, depth + 1)
        return LayerSpec(Config(name, kind, given, version), model=model)
    if not isinstance(values, dict):
        raise LoadError(f"{name!r} ({kind}): its settings must be a dict, got {shown(values)}")
    function = values.get("function")
    if kind == "TFOpLambda" and isinstance(function, str) and function in _OF_TENSORFLOW:
        return LayerSpec(Config(name, _OF_TENSORFLOW[function], {}, version), is_operation=True)
    module = str(data.get("module") or "")
    # HDF5 files leave the module out; layers have at least one of these.
    is_operation = module.startswith(_OPERATIONS) or not (module or values.keys() & {"trainable", "dtype"})
    return LayerSpec(Config(name, kind, values, version), is_operation and kind != "InputLayer")


def _sequential(values: Any, version: int, depth: int) -> ModelSpec:
    given = values if isinstance(values, dict) else {}
    name = str(given.get("name") or "sequential")
    specs = [_layer(each, version, depth) for each in _list(given.get("layers", values), "layers")]
    specs = [replace(spec, is_operation=False) for spec in specs]
    shape, source = given.get("build_input_shape"), "input"
    if specs and specs[0].kind == "InputLayer":
        first = specs.pop(0)
        shape, source = _declared(first.config), first.name
    elif specs and "batch_input_shape" in specs[0].config:
        shape = specs[0].config.get("batch_input_shape")
    elif specs and specs[0].model is not None and len(specs[0].model.inputs) == 1:
        shape = specs[0].model.inputs[0].shape
    _check_names(specs)
    while source in {spec.name for spec in specs}:
        source += "_"
    last, calls = Ref(source, 0), []
    for spec in specs:
        calls.append(Call(spec.name, 0, (last,)))
        last = Ref(spec.name, 0)
    return _counted(ModelSpec(name, "Sequential", tuple(specs), tuple(calls), (_input(source, shape),), last, 0))


def _functional(values: Mapping[str, Any], version: int, depth: int) -> ModelSpec:
    name = str(values.get("name") or "model")
    entries = _list(values.get("layers"), "layers")
    specs = [_layer(entry, version, depth) for entry in entries]
    _check_names(specs)
    calls: dict[tuple[str, int], Call] = {}
    for spec, entry in zip(specs, entries, strict=True):
        for i, node in enumerate(_list(entry.get("inbound_nodes", []), f"inbound_nodes of {spec.name!r}")):
            args, kwargs = _arguments(node)
            if not spec.is_operation:
                args, kwargs = _of_layer(spec, args, kwargs)
            elif version < 3:
                kwargs = {"x2" if key == "y" else key: value for key, value in kwargs.items() if key != "name"}
            calls[spec.name, i] = Call(spec.name, i, args, kwargs)
    sources = {spec.name: _input(spec.name, _declared(spec.config)) for spec in specs if spec.kind == "InputLayer"}
    inputs = []
    for ref in refs_in(_references(values.get("input_layers"), "input_layers")):
        if ref.layer not in sources:
            raise LoadError(f"input_layers has {shown(ref.layer)}, which is not an InputLayer")
        inputs.append(sources[ref.layer])
    outputs = _references(values.get("output_layers"), "output_layers")
    shifts = _shifts(specs, calls, outputs)
    ordered = _ordered(calls, outputs, sources.keys(), shifts)
    kept = tuple(spec for spec in specs if spec.kind != "InputLayer")
    return _counted(ModelSpec(name, "Functional", kept, ordered, tuple(inputs), _shifted(outputs, shifts), 0))


def _counted(model: ModelSpec) -> ModelSpec:
    counts = {spec.name: 1 if spec.model is None else spec.model.count for spec in model.layers}
    count = sum(counts[call.layer] for call in model.calls)
    if count > _MOST_CALLS:
        raise LoadError(f"it calls layers {count} times; at most {_MOST_CALLS} are allowed")
    return replace(model, count=count)


def _check_names(specs: Sequence[LayerSpec]) -> None:
    seen: set[str] = set()
    for spec in specs:
        if spec.name in seen:
            raise LoadError(f"the layer {shown(spec.name)} occurs twice")
        seen.add(spec.name)


def _declared(config: Config) -> Any:
    return config.get("batch_shape", config.get("batch_input_shape"))


def _input(name: str, shape: Any) -> InputSpec:
    if shape is None:
        return InputSpec(name, None)
    good = isinstance(shape, (list, tuple)) and 0 < len(shape) <= 8
    if not good or any(
        size is not None and (isinstance(size, bool) or not isinstance(size, int) or not 1 <= size <= _LARGEST)
        for size in shape
    ):
        raise LoadError(f"the input {name!r} has the shape {shown(shape)}")
    return InputSpec(name, tuple(shape))


# Calls and their arguments


def _arguments(node: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Return the arguments of a call, in the format of Keras 3 or of Keras 2."""
    if isinstance(node, dict):
        args, kwargs = node.get("args", []), node.get("kwargs", {})
        values = tuple(_argument(each) for each in _list(args, "args"))
        return values, {str(key): _argument(each) for key, each in _mapping(kwargs, "kwargs").items()}
    entries = _list(node, "an inbound node")
    if entries and isinstance(entries[0], str):
        entries = [entries]
    found: list[Any] = []
    kwargs = {}
    for entry in entries:
        if not isinstance(entry, list) or len(entry) not in (3, 4):
            raise LoadError(f"an inbound node has {shown(entry)}")
        found.append(entry[2] if entry[0] == "_CONSTANT_VALUE" else _ref(entry))
        if len(entry) == 4:
            kwargs |= {str(key): _old_argument(each) for key, each in _mapping(entry[3], "kwargs").items()}
    return (found[0] if len(found) == 1 else found,), kwargs


def _of_layer(spec: LayerSpec, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Return the arguments of a layer: results of other layers, in order, and its keyword arguments."""
    if "inputs" in kwargs:
        args = (kwargs.pop("inputs"), *args)
    if spec.config.version >= 3 or spec.kind.startswith("Random"):
        kwargs.pop("training", None)  # Keras 3 writes it down, but passes on the mode of the whole network
    given = {name: value for name, value in kwargs.items() if value is not None and value is not False}
    return tuple(arg for arg in args if arg is not None), given


def _argument(value: Any, depth: int = 0) -> Any:
    if depth > _DEEPEST:
        raise LoadError(f"arguments of a call are in lists more than {_DEEPEST} deep")
    if isinstance(value, list):
        return [_argument(each, depth + 1) for each in value]
    if not isinstance(value, dict):
        return value
    inner = value.get("config")
    if value.get("class_name") == "__keras_tensor__" and isinstance(inner, dict):
        return _ref(inner.get("keras_history"))
    if value.get("class_name") in ("__tensor__", "__numpy__") and isinstance(inner, dict):
        return constant(inner.get("value"))
    if "class_name" in value:
        raise LoadError(f"an argument of a call is a {shown(value['class_name'])}")
    return {str(key): _argument(each, depth + 1) for key, each in value.items()}


def constant(value: Any) -> Any:
    """Return an array of numbers in a configuration."""
    try:
        array = np.asarray(value, np.float32)
    except (TypeError, ValueError, OverflowError):
        raise LoadError(f"{shown(value)} is not an array of numbers") from None
    if array.size > _MOST_CONSTANT:
        raise LoadError(f"an array of {array.size} numbers is in the configuration")
    return array


def _old_argument(value: Any) -> Any:
    """Keras 2 writes results of layers as a name and two numbers among plain arguments."""
    if isinstance(value, list) and len(value) in (3, 4) and isinstance(value[0], str) and value[0] != "_CONSTANT_VALUE":
        return _ref(value)
    return _argument(value)


def _ref(value: Any) -> Ref:
    if isinstance(value, list) and len(value) >= 3:
        name, call, output = value[:3]
        if isinstance(name, str) and type(call) is int and type(output) is int and call >= 0 and output >= 0:
            return Ref(name, call, output)
    raise LoadError(f"{shown(value)} does not name the result of a layer")


def _references(value: Any, what: str, depth: int = 0) -> Any:
    """Return `Ref` in the lists and dicts of the file; a single one without its list."""
    if depth > _DEEPEST:
        raise LoadError(f"{what} are in lists more than {_DEEPEST} deep")
    if isinstance(value, dict):
        return {str(key): _references(each, what, depth + 1) for key, each in value.items()}
    if not isinstance(value, list) or not value:
        raise LoadError(f"{what} must name layers, got {shown(value)}")
    if isinstance(value[0], str):
        return _ref(value)
    found = [_references(each, what, depth + 1) for each in _list(value, what)]
    return found[0] if len(found) == 1 and depth == 0 else found


def refs_in(template: Any) -> Iterator[Ref]:
    """Yield the results of layers within arguments."""
    if isinstance(template, Ref):
        yield template
    elif isinstance(template, (list, tuple)):
        for each in template:
            yield from refs_in(each)
    elif isinstance(template, dict):
        for each in template.values():
            yield from refs_in(each)


def _shifts(specs: Sequence[LayerSpec], calls: Mapping[tuple[str, int], Call], outputs: Any) -> dict[str, int]:
    """Return by how much the call numbers of models are too large.

    Keras 2 counts the call that created a model as its first, which is not in the file.
    """
    models = {spec.name for spec in specs if spec.model is not None}
    read: dict[str, set[int]] = {name: set() for name in models}
    for template in (outputs, *(each for call in calls.values() for each in (call.args, call.kwargs))):
        for ref in refs_in(template):
            if ref.layer in models:
                read[ref.layer].add(ref.call)
    shifts = {}
    for name, numbers in read.items():
        count = sum(layer == name for layer, _ in calls)
        if numbers and max(numbers) == count and 0 not in numbers:
            shifts[name] = 1
    return shifts


def _shifted(template: Any, shifts: Mapping[str, int]) -> Any:
    if isinstance(template, Ref):
        return template._replace(call=template.call - shifts.get(template.layer, 0))
    if isinstance(template, (list, tuple)):
        return type(template)(_shifted(each, shifts) for each in template)
    if isinstance(template, dict):
        return {key: _shifted(each, shifts) for key, each in template.items()}
    return template


def _ordered(
    calls: Mapping[tuple[str, int], Call], outputs: Any, sources: Any, shifts: Mapping[str, int]
) -> tuple[Call, ...]:
    """Return the calls that the outputs depend on, each after those whose results it reads."""
    ordered: list[Call] = []
    done: set[tuple[str, int]] = set()
    begun: set[tuple[str, int]] = set()

    def needed(template: Any) -> list[tuple[str, int]]:
        return [(ref.layer, ref.call) for ref in refs_in(_shifted(template, shifts)) if ref.layer not in sources]

    waiting = needed(outputs)
    while waiting:
        key = waiting[-1]
        if key in done:
            waiting.pop()
            continue
        if key not in calls:
            raise LoadError(f"a result of call {key[1]} of the layer {shown(key[0])} is read, but does not exist")
        call = calls[key]
        missing = [each for each in needed([*call.args, *call.kwargs.values()]) if each not in done]
        if not missing:
            done.add(key)
            args, kwargs = _shifted(call.args, shifts), _shifted(dict(call.kwargs), shifts)
            ordered.append(Call(call.layer, call.index, args, kwargs))
            waiting.pop()
            continue
        if key in begun:
            raise LoadError(f"the layers {shown(key[0])} and {shown(missing[0][0])} wait for each other")
        begun.add(key)
        waiting += missing
    return tuple(ordered)
