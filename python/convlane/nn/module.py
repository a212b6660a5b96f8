"""The base class of layers and networks: a named tree of modules with parameters (learned) and buffers (state)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from convlane._floats import quiet
from convlane._hooks import hooks
from convlane.functional._arguments import Array
from convlane.safetensors_file import Path

M = TypeVar("M", bound="Module")


class IncompatibleKeys(NamedTuple):
    """Keys that a state dict lacks, and keys that the network lacks."""

    missing_keys: list[str]
    unexpected_keys: list[str]


class Module:
    """A layer or a network: named children, parameters and buffers, and a `forward` that uses them.

    A module that is assigned to an attribute becomes a child. Parameters are registered with `register_parameter` and
    are read-only float32 arrays: change one by assigning a new array, whose shape is checked and which is copied (an
    array that owns its memory and is itself read-only is shared). What is derived from a parameter, such as a packed
    weight, therefore stays valid as long as the array is the same object. Running a network in eval mode changes
    nothing that another thread could see, so several threads may share a network.

    Modules start in training mode, as in torch. They can be pickled and deep-copied.

    Examples
    --------
    >>> import numpy as np
    >>> from convlane import nn
    >>> class Twice(nn.Module):
    ...     def __init__(self):
    ...         self.conv = nn.Conv2d(2, 2, 1, bias=False)
    ...
    ...     def forward(self, input):
    ...         return self.conv(self.conv(input))
    >>> network = Twice()
    >>> network.conv.weight = np.full((2, 2, 1, 1), 0.5, np.float32)
    >>> network(np.ones((1, 2, 1, 1), np.float32)).ravel()
    array([1., 1.], dtype=float32)
    >>> list(network.state_dict())
    ['conv.weight']
    """

    forward: Callable[..., Any]
    training: bool
    frozen: bool
    _parameter_names: list[str]
    _buffer_names: list[str]
    _optional_names: list[str]
    _child_names: list[str]
    _unsaved: frozenset[str] = frozenset()  # attributes that copies and pickles leave out

    def __new__(cls, *args: Any, **kwargs: Any) -> Module:
        """Create the lists of names before ``__init__``, so that subclasses need not call this class's."""
        module = super().__new__(cls)
        vars(module).update(
            training=True, frozen=False, _parameter_names=[], _buffer_names=[], _optional_names=[], _child_names=[]
        )
        return module

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run `forward`."""
        return self.forward(*args, **kwargs)

    # children

    def __setattr__(self, name: str, value: Any) -> None:
        if isinstance(value, Module):
            for names in (self._parameter_names, self._buffer_names):
                if name in names:
                    names.remove(name)
            if name not in self._child_names:
                self._child_names.append(name)
        elif name in self._child_names:
            if value is not None:
                raise TypeError(
                    f"{type(self).__name__}.{name} is a module and cannot become a {type(value).__name__}; "
                    "assign a Module or None"
                )
            self._child_names.remove(name)
        elif name in self._parameter_names or name in self._buffer_names:
            try:
                value = None if value is None else self._checked(name, value)
            except (TypeError, ValueError) as error:
                raise type(error)(f"{type(self).__name__}.{name}: {error}") from None
        object.__setattr__(self, name, value)

    def __delattr__(self, name: str) -> None:
        object.__delattr__(self, name)
        for names in (self._parameter_names, self._buffer_names, self._optional_names, self._child_names):
            if name in names:
                names.remove(name)

    def named_children(self) -> Iterator[tuple[str, Module]]:
        """Yield the direct children with their names, in the order in which they were assigned."""
        for name in self._child_names:
            yield name, vars(self)[name]

    def children(self) -> Iterator[Module]:
        """Yield the direct children."""
        return (child for _, child in self.named_children())

    def named_modules(self) -> Iterator[tuple[str, Module]]:
        """Yield this module with the name ``""`` and all modules below it with dotted names, each module once."""
        seen = set()
        for path, module in self._walk(""):
            if id(module) not in seen:
                seen.add(id(module))
                yield path, module

    def modules(self) -> Iterator[Module]:
        """Yield this module and all modules below it, each once."""
        return (module for _, module in self.named_modules())

    def apply(self: M, fn: Callable[[Module], Any]) -> M:
        """Call `fn` on every module, children before their parents, and return this module."""
        for child in self.children():
            child.apply(fn)
        fn(self)
        return self

    def train(self: M, mode: bool = True) -> M:
        """Set training mode (dropout drops, batch norm uses the batch) here and below; return this module.

        Frozen modules stay in eval mode.
        """
        for module in self.modules():
            module.training = bool(mode) and not module.frozen
        return self

    def eval(self: M) -> M:
        """Leave training mode, here and below; return this module."""
        return self.train(False)

    def freeze(self: M, frozen: bool = True) -> M:
        """Exclude all parameters here and below from training; return this module.

        Frozen modules get no gradients and stay in eval mode, so that batch norm uses its running statistics and
        dropout drops nothing. ``freeze(False)`` undoes this; call `train` afterwards.

        Examples
        --------
        >>> from convlane import models, nn
        >>> network = models.create("resnet18").freeze()
        >>> network.fc = nn.Linear(512, 10)
        >>> [name for name, _ in network.named_parameters(trainable=True)]
        ['fc.weight', 'fc.bias']
        """
        for module in self.modules():
            module.frozen = bool(frozen)
            module.training = module.training and not module.frozen
        return self

    # parameters and buffers

    def register_parameter(self, name: str, array: Array | None) -> None:
        """Add a parameter; None reserves the name for a parameter that this module does not use."""
        self._register(self._parameter_names, name, array)

    def register_buffer(self, name: str, array: NDArray[Any] | None, *, optional: bool = False) -> None:
        """Add an array that is part of the state but not learned: float32 or int64, writable by its module.

        An `optional` buffer may be missing from a state dict; it then keeps its value.
        """
        self._register(self._buffer_names, name, array)
        if optional:
            self._optional_names.append(name)

    def named_parameters(self, trainable: bool = False) -> Iterator[tuple[str, Array]]:
        """Yield all parameters here and below with their dotted names, each array once.

        With `trainable`, those of frozen modules are left out.
        """
        seen = set()
        for path, module in self.named_modules():
            for name in () if trainable and module.frozen else module._parameter_names:
                array = vars(module)[name]
                if array is not None and id(array) not in seen:
                    seen.add(id(array))
                    yield _join(path, name), array

    def parameters(self) -> Iterator[Array]:
        """Yield all parameters here and below, each array once."""
        return (array for _, array in self.named_parameters())

    def num_parameters(self) -> int:
        """Return the number of elements of all parameters."""
        return sum(array.size for array in self.parameters())

    def summary(self, input_shape: Sequence[int] | None = None) -> Any:
        """Return the table of the network's layers, see `convlane.analysis.summary`."""
        return hooks["summary"](self, input_shape)

    def state_dict(self) -> dict[str, NDArray[Any]]:
        """Return all parameters (the read-only arrays themselves) and copies of all buffers, under torch's keys.

        The result is a snapshot: later changes of the network do not affect it.
        """
        return {
            key: vars(module)[name] if name in module._parameter_names else vars(module)[name].copy()
            for key, module, name in self._state()
        }

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True) -> IncompatibleKeys:
        """Copy arrays into parameters and buffers of the same keys.

        Parameters
        ----------
        state_dict
            A mapping of keys to NumPy arrays, torch tensors or anything else that has ``__array__``. All floating-point
            types, including torch's bfloat16, are cast to float32. Batch norm's ``num_batches_tracked`` must be an
            integer, and may be missing.
        strict
            Whether missing and unexpected keys are errors.

        Returns
        -------
        IncompatibleKeys
            ``(missing_keys, unexpected_keys)``, both empty if strict.

        Raises
        ------
        ValueError
            If keys are missing or unexpected (only if strict), or arrays have another shape or type; the message names
            all of them. Nothing has been changed then.
        TypeError
            If `state_dict` is not a mapping.
        """
        if not isinstance(state_dict, Mapping):
            raise TypeError(f"load_state_dict: expected a mapping of keys to arrays, got {type(state_dict).__name__}")
        entries = {key: (module, name) for key, module, name in self._state()}
        missing = [
            key
            for key, (module, name) in entries.items()
            if key not in state_dict and name not in module._optional_names
        ]
        unexpected = [str(key) for key in state_dict if key not in entries]
        loaded, misfits = {}, []
        for key in entries.keys() & state_dict.keys():
            module, name = entries[key]
            try:
                loaded[key] = module._checked(name, state_dict[key])
            except (TypeError, ValueError) as error:
                misfits.append(f"{key} ({error})")
        misfits.sort()

        lists = {
            "missing": missing if strict else [],
            "unexpected": unexpected if strict else [],
            "of another shape or type": misfits,
        }
        if any(lists.values()):
            lines = [f"{len(keys)} {kind}: {', '.join(keys)}" for kind, keys in lists.items() if keys]
            if missing and strict and (prefix := _prefix(unexpected, missing)):
                lines.append(f"all missing keys exist with the prefix {prefix!r}; remove it")
            if unexpected and strict and (prefix := _prefix(missing, unexpected)):
                lines.append(f"all unexpected keys would match with the prefix {prefix!r}; add it")
            kind = type(self).__name__
            raise ValueError(f"load_state_dict: the state dict does not match {kind}:\n  " + "\n  ".join(lines))
        for key, array in loaded.items():
            module, name = entries[key]
            vars(module)[name] = array
        return IncompatibleKeys(missing, unexpected)

    def save(self, path: Path) -> None:
        """Write a network that `convlane.models.create` has built to a file, from which `convlane.load` rebuilds it.

        The file is a safetensors file of the state dict, with the network's name and configuration in its metadata. It
        is written atomically: an existing file is replaced only when the new one is complete.

        Raises
        ------
        OSError
            If it cannot be written. Nothing is left behind then.
        ValueError
            If the network was not made by `create` or its layers have changed since, so that only its weights could be
            written, as ``convlane.save_weights`` does.
        """
        hooks["save"](self, path)

    def _walk(self, path: str) -> Iterator[tuple[str, Module]]:
        """Yield this module and all modules below it with their paths; a module reached twice appears with both."""
        yield path, self
        for name, child in self.named_children():
            yield from child._walk(_join(path, name))

    def _state(self) -> Iterator[tuple[str, Module, str]]:
        """Yield key, module and attribute of everything in the state dict."""
        for path, module in self._walk(""):
            for name in [*module._parameter_names, *module._buffer_names]:
                if vars(module)[name] is not None:
                    yield _join(path, name), module, name

    def _register(self, names: list[str], name: str, array: NDArray[Any] | None) -> None:
        if not isinstance(name, str) or not name or "." in name:
            raise ValueError(f"the name of a parameter or buffer must be a non-empty string without dots, got {name!r}")
        if hasattr(self, name):
            raise ValueError(f"{type(self).__name__} already has an attribute {name!r}")
        vars(self)[name] = None
        names.append(name)
        try:
            setattr(self, name, array)
        except (TypeError, ValueError):
            delattr(self, name)
            raise

    @quiet
    def _checked(self, name: str, value: Any) -> NDArray[Any]:
        """Return the array that the parameter or buffer `name` becomes when `value` is assigned to it."""
        if not hasattr(value, "__array__"):
            raise TypeError(f"expected an array, got {type(value).__name__}")
        array = value if isinstance(value, np.ndarray) else _to_numpy(value)
        before = vars(self)[name]
        if before is not None and array.shape != before.shape:
            raise ValueError(f"expected shape {before.shape}, got {array.shape}")
        is_buffer = name in self._buffer_names
        if is_buffer and (array if before is None else before).dtype.kind in "iu":
            if array.dtype.kind not in "iu":
                raise TypeError(f"expected integers, got {array.dtype}")
            return np.array(array, np.int64)
        if array.dtype.kind != "f":
            raise TypeError(f"expected floating-point numbers, got {array.dtype}")
        return np.array(array, np.float32, order="C") if is_buffer else _frozen(array)

    # copies and representation

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name not in self._unsaved}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        for name in self._parameter_names:  # NumPy does not pickle the flag
            if vars(self)[name] is not None:
                vars(self)[name].flags.writeable = False

    def extra_repr(self) -> str:
        """Return what `repr` shows between the parentheses."""
        return ""

    def __repr__(self) -> str:
        lines = [f"({name}): {child!r}".replace("\n", "\n  ") for name, child in self.named_children()]
        extra = self.extra_repr()
        if not lines:
            return f"{type(self).__name__}({extra})"
        return "\n  ".join([f"{type(self).__name__}(", *([extra] if extra else []), *lines]) + "\n)"


def _join(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name


def _to_numpy(value: Any) -> NDArray[Any]:
    if hasattr(value, "detach"):  # a torch tensor: NumPy rejects those that require gradients, and bfloat16
        value = value.detach()
        value = value.float() if str(value.dtype) == "torch.bfloat16" else value
    return np.asarray(value)


def _frozen(array: NDArray[Any]) -> Array:
    """Return the array as parameters store it: float32, read-only and owning its memory."""
    flags = array.flags
    plain = type(array) is np.ndarray and array.dtype == np.float32 and array.dtype.isnative
    if plain and flags.c_contiguous and flags.owndata and not flags.writeable:
        return array
    own = np.array(array, np.float32, order="C")
    own.flags.writeable = False
    return own


def _prefix(longer: Sequence[str], shorter: Sequence[str]) -> str | None:
    """Return the prefix that turns all keys of `shorter` into keys of `longer`, if there is one."""
    known = set(longer)
    candidates = (key.removesuffix(shorter[0]) for key in longer if key.endswith(f".{shorter[0]}"))
    return next((prefix for prefix in candidates if all(prefix + key in known for key in shorter)), None)
