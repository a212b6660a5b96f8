"""Optimisers: how parameters are updated from their gradients.

All parameters of a network are stored in one buffer, and a step is one pass of a kernel over it. The network holds
read-only views of the buffer, new ones after every step. If anything else still holds old views (a state dict, a
compiled plan), the step writes to a new buffer; otherwise it works in place.
"""

from __future__ import annotations

import hashlib
import math
import sys
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from convlane import _core
from convlane.functional._arguments import Array, as_array
from convlane.nn.module import Module
from convlane.nn.packing import PackingModule

__all__ = ["SGD", "Adam", "AdamW", "Optimizer", "RMSprop", "clip_grad_norm"]

Schedule: TypeAlias = Callable[[int], float]
"""A function from the number of completed steps to the learning rate."""

_LINE = 16  # floats in a cache line, to which every parameter is aligned


class Optimizer(ABC):
    """The base class of all optimisers: parameters, groups, learning rates and state.

    Parameters
    ----------
    model
        The network. Parameters that are frozen when the optimiser is created are excluded.
    lr
        The learning rate, or a function that returns it for the number of completed steps (see
        `convlane.training.schedule`).
    weight_decay
        The multiple of every parameter that is added to its gradient.
    groups
        Options for some of the parameters: ``{"fc": {"lr": 0.1}, "*.bias": {"weight_decay": 0}}``. A key is the name of
        a parameter, the name of a module that contains it, or a pattern with ``*`` and ``?``; later keys override
        earlier ones.

    Raises
    ------
    TypeError, ValueError
        If an argument has the wrong type or is out of range, or a group has no parameters.
    """

    _buffers: tuple[str, ...] = ()
    """The names of the buffers kept for every parameter, in the kernel's order."""

    def __init__(
        self,
        model: Module,
        lr: float | Schedule,
        *,
        weight_decay: float = 0.0,
        groups: Mapping[str, Mapping[str, Any]] | None = None,
    ) -> None:
        self.model, self.steps = model, 0
        owners = _owners(model)
        self._owners = {name: owners[id(array)] for name, array in model.named_parameters(trainable=True)}
        if not self._owners:
            raise ValueError(f"{type(self).__name__}: {type(model).__name__} has no parameter that is not frozen")
        self._options = _options(type(self).__name__, list(self._owners), lr, weight_decay, groups)
        self._offsets: dict[str, int] = {}
        end = 0
        for name in self._owners:
            self._offsets[name] = end
            end += -(-self._current(name).size // _LINE) * _LINE
        self._size = end
        self._spare: Array | None = None  # that of the step before, for callers that always hold the last parameters
        self._views: dict[str, Array] = {}
        self._gather()
        self._state = {buffer: np.zeros(end, np.float32) for buffer in self._buffers}

    def learning_rate(self, name: str, steps: int | None = None) -> float:
        """Return the learning rate of a parameter in the next step, or in the one after `steps`."""
        return self._rate(self._options[name]["lr"], self.steps if steps is None else steps)

    def step(self, gradients: Mapping[str, Array], *, gradient_factor: float = 1.0) -> None:
        """Update all parameters.

        Parameters
        ----------
        gradients
            The gradient of every parameter by name, as returned by `convlane.value_and_grad`.
        gradient_factor
            A factor of all gradients, as returned by `clip_grad_norm`.

        Raises
        ------
        ValueError
            If a gradient is missing, superfluous or of another shape. Nothing has been changed then.
        """
        if gradients.keys() != self._owners.keys():
            missing, extra = sorted(self._owners.keys() - gradients), sorted(gradients.keys() - self._owners)
            raise ValueError(
                f"step: gradients must be those of the optimiser's parameters; missing: {missing}, unknown: {extra}"
            )
        arrays = {name: self._gradient(name, gradient) for name, gradient in gradients.items()}
        segments = []
        for name, array in arrays.items():
            options = self._options[name]
            segments.append(
                (self._offsets[name], array, *self._coefficients(self._rate(options["lr"], self.steps), options))
            )
        source, target = self._prepare()
        self._run(source, target, segments, gradient_factor)
        self.steps += 1
        self._spare = source if source is not target else None
        self._parameters = target
        self._renew_views()

    def digest(self) -> bytes:
        """Return a digest of all parameters."""
        digest = hashlib.blake2b(digest_size=16)
        for name in self._owners:
            digest.update(np.ascontiguousarray(self._current(name)).data)
        return digest.digest()

    def state_dict(self) -> dict[str, NDArray[Any]]:
        """Return a copy of the optimiser's state: the number of steps, and its buffers by parameter."""
        state: dict[str, NDArray[Any]] = {"steps": np.array(self.steps, np.int64)}
        for buffer, array in self._state.items():
            for name, part in self._parts(array).items():
                state[f"{buffer}.{name}"] = part.copy()
        return state

    def load_state_dict(self, state_dict: Mapping[str, NDArray[Any]]) -> None:
        """Restore a state that was returned by `state_dict`.

        Raises
        ------
        ValueError
            If it belongs to another optimiser or network. Nothing has been changed then.
        """
        own = {
            f"{buffer}.{name}": part
            for buffer, array in self._state.items()
            for name, part in self._parts(array).items()
        }
        if state_dict.keys() != own.keys() | {"steps"}:
            differing = sorted(state_dict.keys() ^ (own.keys() | {"steps"}))
            raise ValueError(f"load_state_dict: not the state of this optimiser; differing keys: {differing[:8]}")
        for key, part in own.items():
            if state_dict[key].shape != part.shape:
                raise ValueError(f"load_state_dict: {key} has shape {state_dict[key].shape}, expected {part.shape}")
        for key, part in own.items():
            part[...] = state_dict[key]
        self.steps = int(state_dict["steps"])

    def settings(self) -> dict[str, Any]:
        """Return what a step depends on besides gradients, parameters and state; of schedules, the first rate."""
        numbers = {name: value for name, value in vars(self).items() if isinstance(value, (bool, float, tuple))}
        options = Counter(str({**each, "lr": self._rate(each["lr"], 0)}) for each in self._options.values())
        return {**numbers, "parameters with": dict(options)}

    @abstractmethod
    def _run(self, source: Array, target: Array, segments: list[Any], gradient_factor: float) -> None:
        """Call the kernel."""

    def _coefficients(self, lr: float, options: Mapping[str, Any]) -> tuple[float, float, float]:
        """Return a parameter's learning rate, its multiple to add to the gradient, and the factor that shrinks it."""
        return lr, options["weight_decay"], 1.0

    def _rate(self, lr: float | Schedule, steps: int) -> float:
        return float(lr(steps)) if callable(lr) else lr

    def _gradient(self, name: str, gradient: Array) -> Array:
        array = as_array(gradient, "step", f"gradients[{name!r}]")
        shape = self._current(name).shape
        if array.shape != shape:
            raise ValueError(f"step: the gradient of {name} has shape {array.shape}, expected {shape}")
        return np.ascontiguousarray(array)

    def _prepare(self) -> tuple[Array, Array]:
        """Return the buffer with the network's parameters, and the buffer to write to: the same or a new one."""
        if any(
            self._current(name) is not view for name, view in self._views.items()
        ):  # parameters have been loaded since the last step
            self._gather()
        self._renew_views()  # new views, so that the old ones survive only if something else holds them
        # Besides the views, the attribute and getrefcount's own argument refer to the buffer.
        alone = sys.getrefcount(self._parameters) == len(self._views) + 2
        spare, self._spare = self._spare, None
        if alone:
            return self._parameters, self._parameters
        if spare is None or sys.getrefcount(spare) > 2:  # this variable and getrefcount's argument
            spare = np.empty(self._size, np.float32)
        return self._parameters, spare

    def _gather(self) -> None:
        """Move the network's parameters into a new buffer, one by one, so that at most one of them exists twice."""
        self._views = {}
        self._parameters = np.zeros(self._size, np.float32)
        for name, part in self._parts(self._parameters).items():
            part[...] = self._current(name)
            self._set_view(name, part)

    def _renew_views(self) -> None:
        """Replace the network's parameters by new views of the buffer."""
        for name, view in self._parts(self._parameters).items():
            self._set_view(name, view)

    def _set_view(self, name: str, view: Array) -> None:
        """Replace a parameter of the network by a view of the buffer."""
        view.flags.writeable = False
        self._views[name] = view
        for module, attribute in self._owners[name]:
            vars(module)[attribute] = view
            if isinstance(module, PackingModule):
                module.forget_packed()

    def _current(self, name: str) -> Array:
        """Return the array that is now this parameter of the network."""
        module, attribute = self._owners[name][0]
        return vars(module)[attribute]  # type: ignore[no-any-return]

    def _parts(self, buffer: Array) -> dict[str, Array]:
        """Return the parts of a buffer as arrays of the parameters' shapes."""
        parts = {}
        for name, start in self._offsets.items():
            shape = self._current(name).shape
            parts[name] = buffer[start : start + math.prod(shape)].reshape(shape)
        return parts


class SGD(Optimizer):
    """Gradient descent, optionally with momentum, by torch's formulas.

    Examples
    --------
    >>> import numpy as np
    >>> from convlane import nn
    >>> from convlane.training import SGD
    >>> layer = nn.Linear(1, 1, bias=False)
    >>> layer.weight = np.array([[1]], np.float32)
    >>> SGD(layer, lr=0.5).step({"weight": np.array([[0.5]], np.float32)})
    >>> layer.weight
    array([[0.75]], dtype=float32)

    References
    ----------
    Sutskever, Martens, Dahl, Hinton, "On the importance of initialization and momentum in deep learning", ICML 2013.
    """

    def __init__(
        self,
        model: Module,
        lr: float | Schedule,
        momentum: float = 0.0,
        *,
        nesterov: bool = False,
        weight_decay: float = 0.0,
        groups: Mapping[str, Mapping[str, Any]] | None = None,
    ) -> None:
        self.momentum = _within("SGD", "momentum", momentum)
        if nesterov and momentum == 0:
            raise ValueError("SGD: nesterov needs a momentum")
        self.nesterov = nesterov
        self._buffers = ("velocity",) if momentum else ()
        super().__init__(model, lr, weight_decay=weight_decay, groups=groups)

    def _run(self, source: Array, target: Array, segments: list[Any], gradient_factor: float) -> None:
        _core.optimizer_step(
            "nesterov" if self.nesterov else "sgd",
            source,
            target,
            self._state.get("velocity"),
            None,
            segments,
            gradient_factor=gradient_factor,
            momentum=self.momentum,
        )


class RMSprop(Optimizer):
    """Gradients divided by the root of a running mean of their squares, by torch's formulas.

    References
    ----------
    Tieleman, Hinton, "Lecture 6.5, RMSProp", Coursera 2012.
    """

    def __init__(
        self,
        model: Module,
        lr: float | Schedule = 0.01,
        alpha: float = 0.99,
        eps: float = 1e-8,
        momentum: float = 0.0,
        *,
        weight_decay: float = 0.0,
        groups: Mapping[str, Mapping[str, Any]] | None = None,
    ) -> None:
        self.alpha, self.momentum = _within("RMSprop", "alpha", alpha), _within("RMSprop", "momentum", momentum)
        self.eps = eps
        self._buffers = ("velocity", "square") if momentum else ("square",)
        super().__init__(model, lr, weight_decay=weight_decay, groups=groups)

    def _run(self, source: Array, target: Array, segments: list[Any], gradient_factor: float) -> None:
        _core.optimizer_step(
            "rmsprop",
            source,
            target,
            self._state.get("velocity"),
            self._state["square"],
            segments,
            gradient_factor=gradient_factor,
            momentum=self.momentum,
            average=self.alpha,
            eps=self.eps,
        )


class Adam(Optimizer):
    """Running means of gradients divided by the roots of running means of their squares, by torch's formulas.

    References
    ----------
    Kingma, Ba, "Adam: a method for stochastic optimization", ICLR 2015.
    """

    _buffers = ("mean", "square")

    def __init__(
        self,
        model: Module,
        lr: float | Schedule = 0.001,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        *,
        weight_decay: float = 0.0,
        groups: Mapping[str, Mapping[str, Any]] | None = None,
    ) -> None:
        name = type(self).__name__
        self.betas = _within(name, "betas[0]", betas[0]), _within(name, "betas[1]", betas[1])
        self.eps = eps
        super().__init__(model, lr, weight_decay=weight_decay, groups=groups)

    def _coefficients(self, lr: float, options: Mapping[str, Any]) -> tuple[float, float, float]:
        lr, weight_decay, shrink = super()._coefficients(lr, options)
        return lr / (1 - self.betas[0] ** (self.steps + 1)), weight_decay, shrink

    def _run(self, source: Array, target: Array, segments: list[Any], gradient_factor: float) -> None:
        _core.optimizer_step(
            "adam",
            source,
            target,
            self._state["mean"],
            self._state["square"],
            segments,
            gradient_factor=gradient_factor,
            momentum=self.betas[0],
            fresh=1 - self.betas[0],
            average=self.betas[1],
            correction=1 / math.sqrt(1 - self.betas[1] ** (self.steps + 1)),
            eps=self.eps,
        )


class AdamW(Adam):
    """Adam with decoupled weight decay, which shrinks the parameters directly.

    References
    ----------
    Loshchilov, Hutter, "Decoupled weight decay regularization", ICLR 2019.
    """

    def __init__(
        self,
        model: Module,
        lr: float | Schedule = 0.001,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        *,
        weight_decay: float = 0.01,
        groups: Mapping[str, Mapping[str, Any]] | None = None,
    ) -> None:
        super().__init__(model, lr, betas, eps, weight_decay=weight_decay, groups=groups)

    def _coefficients(self, lr: float, options: Mapping[str, Any]) -> tuple[float, float, float]:
        rate, weight_decay, _ = super()._coefficients(lr, options)
        return rate, 0.0, 1 - lr * weight_decay


def clip_grad_norm(gradients: Mapping[str, Array], max_norm: float) -> tuple[float, float]:
    """Return the norm of all gradients together, and the factor, at most 1, that limits it to `max_norm`.

    The gradients are not changed; pass the factor to `Optimizer.step`. The sum does not depend on the number of
    threads.

    Examples
    --------
    >>> import numpy as np
    >>> from convlane.training import clip_grad_norm
    >>> clip_grad_norm({"a": np.array([3], np.float32), "b": np.array([4], np.float32)}, 1.0)
    (5.0, 0.2)
    """
    norm = math.sqrt(_core.sum_of_squares([np.ascontiguousarray(gradient) for gradient in gradients.values()]))
    return norm, 1.0 if norm <= max_norm else max_norm / norm


def _owners(model: Module) -> dict[int, list[tuple[Module, str]]]:
    """Return, for the id of each parameter, the modules that hold it and its names there."""
    owners: dict[int, list[tuple[Module, str]]] = {}
    for module in model.modules():
        for name in module._parameter_names:
            owners.setdefault(id(vars(module)[name]), []).append((module, name))
    return owners


def _options(
    kind: str,
    names: Sequence[str],
    lr: float | Schedule,
    weight_decay: float,
    groups: Mapping[str, Mapping[str, Any]] | None,
) -> dict[str, dict[str, Any]]:
    """Return learning rate and weight decay of every parameter."""
    options: dict[str, dict[str, Any]] = {name: {"lr": lr, "weight_decay": weight_decay} for name in names}
    for pattern, changes in (groups or {}).items():
        members = [name for name in names if name.startswith(f"{pattern}.") or fnmatchcase(name, pattern)]
        if not members:
            raise ValueError(f"{kind}: the group {pattern!r} has no parameters; the parameters are {', '.join(names)}")
        if unknown := changes.keys() - {"lr", "weight_decay"}:
            raise ValueError(f"{kind}: a group may have lr and weight_decay, got {sorted(unknown)}")
        for name in members:
            options[name].update(changes)
    for option in options.values():
        for key, value in option.items():
            if callable(value) and key == "lr":
                continue
            if not isinstance(value, (int, float)) or isinstance(value, bool):
                raise TypeError(f"{kind}: {key} must be a number, got {value!r}")
            if not 0 <= value < math.inf:
                raise ValueError(f"{kind}: {key} must not be negative, got {value}")
    return options


def _within(kind: str, name: str, value: float) -> float:
    if not 0 <= value < 1:
        raise ValueError(f"{kind}: {name} must be at least 0 and below 1, got {value}")
    return float(value)
