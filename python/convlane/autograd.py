"""The tape: gradients by recording the operations of a function and going through them backwards (reverse mode).

While `value_and_grad` calls the loss function, every operation of `convlane.functional` that depends on a parameter is
run by its gradient rule, which returns the output and a pullback: a function from the output's gradient to those of
the arguments. The tape is the list of these pullbacks. The backward pass runs each once and drops it, and with it the
arrays that it has saved, so an activation lives no longer than its last user. Background: Griewank and Walther,
"Evaluating derivatives", 2008, chapter 3.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from convlane import _core
from convlane.functional import add
from convlane.functional._arguments import Array, as_array
from convlane.functional._op import Pending, Pullback, bound, recorder, rules
from convlane.functional._placeholder import Placeholder
from convlane.nn.module import Module

__all__ = ["stop_gradient", "value_and_grad", "vjp"]

Slot: TypeAlias = int
"""The index under which the gradient of one array is accumulated."""


def value_and_grad(
    loss_fn: Callable[..., Any],
    model: Module,
    *,
    has_aux: bool = False,
    ready: Callable[[str, Array], None] | None = None,
) -> Callable[..., Any]:
    """Return a function that computes a loss and its gradients for all parameters that are not frozen.

    Parameters
    ----------
    loss_fn
        Any function that runs `model` and returns one number, made of operations of `convlane.functional`. Inside it,
        values that depend on a parameter are not NumPy arrays, and NumPy's functions reject them; Python's ``+ - * /``
        work with numbers, with arrays on the right and with each other: ``main + 0.4 * auxiliary``. Values that NumPy
        computes from the parameters themselves (``np.sum(layer.weight**2)``) count as constants, unlike
        ``sum(square(layer.weight))`` from `convlane.functional`.
    model
        The network. Parts that are frozen with `Module.freeze` get no gradients; those before the first trainable layer
        also save no activations.
    has_aux
        Whether `loss_fn` returns ``(loss, aux)``; aux is passed on as arrays, for example logits for the accuracy.
    ready
        A function that is called with the name and the gradient of each parameter as soon as the gradient is complete,
        the last layer's first, while those of earlier layers are still being computed; for example, to send it to
        another process in the meantime.

    Returns
    -------
    callable
        A function with the arguments of `loss_fn` that returns ``(loss, gradients)``, or ``((loss, aux), gradients)``:
        a float, and a dict from the names of `Module.named_parameters` to float32 arrays of the parameters' shapes. A
        parameter that the loss does not depend on has a gradient of 0. The function keeps the memory of a call and
        reuses it for the next call.

    Raises
    ------
    TypeError
        If `loss_fn` uses something that is not an operation with a gradient, or passes what depends on a parameter as
        an argument without a gradient (such as class weights), or if the loss is not one number that depends on a
        parameter.

    Examples
    --------
    >>> import convlane, numpy as np
    >>> from convlane import nn
    >>> from convlane.functional import mse_loss
    >>> layer = nn.Linear(2, 1, bias=False)
    >>> layer.weight = np.array([[1, 2]], np.float32)
    >>> step = convlane.value_and_grad(lambda x, y: mse_loss(layer(x), y), layer)
    >>> step(np.array([[1, 1]], np.float32), np.array([[1]], np.float32))
    (4.0, {'weight': array([[4., 4.]], dtype=float32)})
    """

    def run(*args: Any, **kwargs: Any) -> Any:
        parameters = dict(model.named_parameters(trainable=True))
        tape = _Tape()
        slots = {name: tape.leaf(array) for name, array in parameters.items()}
        with tape.recording():
            result = loss_fn(*args, **kwargs)
            loss, aux = result if has_aux else (result, None)
            aux = _arrays(aux)
        if not isinstance(loss, _Variable) or loss.shape != ():
            raise TypeError(
                "value_and_grad: the loss function must return one number that depends on the model's parameters, "
                f"got {_kind(loss)}"
            )
        value = float(loss.array())
        names = {slot: name for name, slot in slots.items()}
        found: dict[str, Array] = {}

        def complete(slot: Slot, gradient: Array | None) -> None:
            name = names[slot]
            found[name] = np.zeros(parameters[name].shape, np.float32) if gradient is None else gradient
            if ready is not None:
                ready(name, found[name])

        tape.backward({loss.slot: np.ones((), np.float32)}, complete)
        gradients = {name: found[name] for name in slots}
        return ((value, aux) if has_aux else value), gradients

    vars(run)["memory"] = _core.MemoryHold()  # so that every call reuses memory that the previous call has freed
    return run


def vjp(fn: Callable[..., Any], *arrays: Array) -> tuple[Any, Callable[[Any], tuple[Array, ...]]]:
    """Run a function; return its value and a function that maps gradients of the value to those of the arguments.

    Parameters
    ----------
    fn
        A function made of operations of `convlane.functional`, which returns an array, or a tuple, list or dict of
        arrays. Inside it, its arguments are not NumPy arrays, and NumPy's functions reject them.
    arrays
        The arguments that `fn` is called with, float32.

    Returns
    -------
    value : numpy.ndarray, tuple, list or dict
        ``fn(*arrays)``.
    pullback : callable
        A function from the gradient of some number with respect to `value`, with as many arrays as `value`, to a tuple
        of the gradients with respect to `arrays` (vector-Jacobian products). It can be called only once, because it
        releases the saved arrays.

    Raises
    ------
    TypeError
        If `fn` uses something that is not an operation with a gradient, or its value does not depend on the arguments.

    Examples
    --------
    >>> import convlane, numpy as np
    >>> from convlane.functional import mul
    >>> value, pullback = convlane.vjp(mul, np.array([2, 3], np.float32), np.array([5, 7], np.float32))
    >>> pullback(np.ones(2, np.float32))
    (array([5., 7.], dtype=float32), array([2., 3.], dtype=float32))
    """
    tape = _Tape()
    variables = [_Variable(tape, as_array(array, "vjp", f"arrays[{i}]")) for i, array in enumerate(arrays)]
    with tape.recording():
        result = fn(*variables)
    results = _items(result)
    if not results or not all(isinstance(item, _Variable) for item in results):
        raise TypeError(f"vjp: the function must return an array that depends on its arguments, got {_kind(result)}")
    value = _arrays(result)
    outputs = [(item.slot, item.shape) for item in results]
    shapes = [(variable.slot, variable.shape) for variable in variables]

    def pullback(gradient: Any) -> tuple[Array, ...]:
        given = [gradient[name] for name in result] if isinstance(result, dict) else _items(gradient)
        if len(given) != len(outputs):
            raise ValueError(f"pullback: expected {len(outputs)} gradients, one for each value, got {len(given)}")
        seeds: dict[Slot, Array] = {}
        for item, (slot, shape) in zip(given, outputs, strict=True):
            seed = as_array(item, "pullback", "gradient")
            if seed.shape != shape:
                raise ValueError(f"pullback: the value has shape {shape}, but its gradient {seed.shape}")
            seeds[slot] = add(seeds[slot], seed) if slot in seeds else seed
        found = tape.backward(seeds)
        return tuple(found[slot] if slot in found else np.zeros(shape, np.float32) for slot, shape in shapes)

    return value, pullback


def stop_gradient(array: Any) -> Any:
    """Return an array that counts as a constant in computations inside `value_and_grad` and `vjp`.

    Parameters
    ----------
    array
        float32, any shape; it may be a parameter.

    Returns
    -------
    numpy.ndarray
        The same numbers; while a plan is compiled, the placeholder for the array.

    Examples
    --------
    >>> import convlane, numpy as np
    >>> from convlane.autograd import stop_gradient
    >>> from convlane.functional import mul
    >>> value, pullback = convlane.vjp(lambda x: mul(x, stop_gradient(x)), np.array([3], np.float32))
    >>> pullback(np.ones(1, np.float32))
    (array([3.], dtype=float32),)
    """
    if isinstance(array, np.ndarray):
        return array.view()  # another object, for which no gradients are wanted
    return _arrays(array) if isinstance(array, _Variable) else array


def _items(value: Any) -> list[Any]:
    """Return the arrays of a function's result: one, or several in a container."""
    if isinstance(value, dict):
        return list(value.values())
    return list(value) if isinstance(value, (list, tuple)) else [value]


class _Node(NamedTuple):
    """An operation on the tape, without its arrays: only those that its pullback has saved stay alive."""

    slot: Slot
    sources: Mapping[str, Slot | list[Slot | None]]
    pullback: Pullback


class _Tape:
    """The operations since the recording began, in order."""

    def __init__(self) -> None:
        self.nodes: list[_Node] = []
        self.leaves: dict[int, tuple[Array, Slot]] = {}  # by the array's id; holding the array keeps the id unique
        self.slots = 0
        self.finished = False

    def new_slot(self) -> Slot:
        self.slots += 1
        return self.slots

    def leaf(self, array: Array) -> Slot:
        """Register an array for which gradients are wanted, wherever it occurs as an argument."""
        slot = self.new_slot()
        self.leaves[id(array)] = array, slot
        return slot

    @contextmanager
    def recording(self) -> Iterator[None]:
        token = recorder.set(self)
        try:
            yield
        finally:
            recorder.reset(token)

    def wants(self, array: Any) -> bool:
        """Return whether an array is a leaf."""
        return id(array) in self.leaves

    def __call__(self, operation: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Run an operation, and record it if its result depends on a leaf."""
        if self.finished:
            raise RuntimeError(
                f"{operation.__name__}: called on a variable of a recording that has ended; return what you need from "
                "the recorded function"
            )
        given = bound(operation, args, kwargs)
        sources = {name: source for name, value in given.items() if (source := self._source(value)) is not None}
        token = recorder.set(None)  # the parts of an operation are not recorded
        try:
            if not sources:
                return operation(*args, **kwargs)
            known = rules(operation)
            if not known.differentiable and known.dtype(**given) != np.float32:  # bools and indices are constants
                return operation(**{name: _arrays(value) for name, value in given.items()})
            _check_differentiable(operation, sources)
            fused = self._fused(operation, given, sources)
            return self._recorded(operation, given, sources) if fused is None else fused
        finally:
            recorder.reset(token)

    def _recorded(self, operation: Callable[..., Any], given: Mapping[str, Any], sources: Mapping[str, Any]) -> Any:
        rule: Any = rules(operation).vjp
        output, pullback = rule(frozenset(sources), **{name: _arrays(value) for name, value in given.items()})
        if isinstance(output, tuple):
            return _Variable(self, output[0], sources, pullback), *output[1:]
        return _Variable(self, output, sources, pullback)

    def _fused(self, operation: Callable[..., Any], given: Mapping[str, Any], sources: Mapping[str, Any]) -> Any:
        """Compute the operation together with a pending operation before it, if there is one."""
        for name, value in given.items():
            if isinstance(value, _Variable) and (pending := value.pending) is not None:
                arguments = {n: pending if n == name else _arrays(v) for n, v in given.items()}
                others = {n: source for n, source in sources.items() if n != name}
                fused = pending.then(operation.__name__, arguments, frozenset(others))
                if fused is not None:
                    others = {f"{operation.__name__}.{n}": source for n, source in others.items()}
                    return _Variable(self, fused[0], {**value.sources, **others}, fused[1])
        return None

    def _source(self, value: Any) -> Slot | list[Slot | None] | None:
        """Return the slots for the gradient of an argument, or None if it does not need a gradient."""
        if isinstance(value, _Variable):
            if value.tape is not self:
                raise ValueError("a variable of one recording is used in another")
            return value.slot
        if isinstance(value, (list, tuple)):
            slots = [self._source(item) for item in value if not isinstance(item, (list, tuple))]
            return slots if any(slot is not None for slot in slots) else None  # type: ignore[return-value]
        leaf = self.leaves.get(id(value))
        return None if leaf is None else leaf[1]

    def backward(
        self, seeds: Mapping[Slot, Array], complete: Callable[[Slot, Array | None], None] | None = None
    ) -> dict[Slot, Array]:
        """Run the backward pass from some slots, which empties the tape; return the gradients of the leaves.

        Each leaf's slot and gradient (None if nothing depends on it) are also passed to `complete` once no operation is
        left that adds to the gradient.
        """
        if self.finished:
            raise RuntimeError("the gradients of this recording have already been computed, which released its arrays")
        self.finished = True
        gradients = dict(seeds)
        last = self._last_users() if complete is not None else {}
        while self.nodes:
            _step_back(self.nodes.pop(), gradients)
            for slot in last.pop(len(self.nodes), ()):
                complete(slot, gradients.get(slot))  # type: ignore[misc]
        for slot in last.pop(None, ()):
            complete(slot, gradients.get(slot))  # type: ignore[misc]
        return gradients

    def _last_users(self) -> dict[int | None, list[Slot]]:
        """Return the leaves that are complete after each node's backward step, by its index; unused ones under None."""
        first: dict[Slot | None, int] = {}
        for index, node in enumerate(self.nodes):
            for source in node.sources.values():
                for slot in source if isinstance(source, list) else [source]:
                    first.setdefault(slot, index)
        last: dict[int | None, list[Slot]] = {}
        for _, slot in self.leaves.values():
            last.setdefault(first.get(slot), []).append(slot)
        return last


def _check_differentiable(operation: Callable[..., Any], wanted: Collection[str]) -> None:
    """Raise a TypeError for arguments that depend on a leaf, but have no gradient by the operation's rule."""
    name, known = operation.__name__, rules(operation)
    if known.vjp is None or isinstance(known.vjp, str):
        raise TypeError(f"{name} has no gradient{f': {known.vjp}' if known.vjp else ''}")
    for argument in wanted:
        if argument not in known.differentiable:
            raise TypeError(
                f"{name}: {argument} has no gradient, so it must be a constant, but it depends on an array whose "
                f"gradient is wanted; arguments with gradients are {', '.join(sorted(known.differentiable))}"
            )


def _step_back(node: _Node, gradients: dict[Slot, Array]) -> None:
    """Propagate the gradient of a node's output to its arguments."""
    gradient = gradients.pop(node.slot, None)
    if gradient is None:
        return
    for name, found in node.pullback(gradient).items():
        source = node.sources[name]
        pairs = zip(source, found, strict=True) if isinstance(source, list) else [(source, found)]
        for slot, part in pairs:
            if slot is not None:
                gradients[slot] = add(gradients[slot], part) if slot in gradients else part


class _Variable(Placeholder):
    """A placeholder for an array that depends on a leaf, while operations are recorded."""

    def __init__(
        self,
        tape: _Tape,
        output: Array | Pending,
        sources: Mapping[str, Any] | None = None,
        pullback: Pullback | None = None,
    ) -> None:
        super().__init__(tuple(output.shape))
        self.tape, self.slot = tape, tape.new_slot()
        self.sources: Mapping[str, Any] = sources or {}
        self.pending = output if isinstance(output, Pending) else None
        self._pullback = pullback
        self._array: Any = None
        if self.pending is None:
            self._settle(output)

    def array(self) -> Array:
        """Return the array, after computing it if it is pending."""
        if self.pending is not None:
            self._settle(self.pending.compute())
        return self._array  # type: ignore[no-any-return]

    def _settle(self, array: Any) -> None:
        self._array, self.pending = array, None
        if self._pullback is not None:
            self.tape.nodes.append(_Node(self.slot, self.sources, self._pullback))
            self._pullback = None

    @staticmethod
    def __convlane_op__(operation: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        given = [*args, *kwargs.values()]
        items = [item for value in given for item in (value if isinstance(value, (list, tuple)) else [value])]
        tape = next(item.tape for item in items if isinstance(item, _Variable))
        return tape(operation, *args, **kwargs)

    def _why(self, what: str) -> str:
        return f"{what} is not recorded, so it would have no gradient"


def _arrays(value: Any) -> Any:
    """Return an argument, or a function's result, with arrays instead of variables."""
    if isinstance(value, _Variable):
        return value.array()
    if isinstance(value, (list, tuple)) and any(isinstance(item, (_Variable, list, tuple)) for item in value):
        return type(value)([_arrays(item) for item in value])
    if isinstance(value, dict):
        return {key: _arrays(item) for key, item in value.items()}
    return value


def _kind(value: Any) -> str:
    name = "a variable" if isinstance(value, _Variable) else type(value).__name__
    return f"{name} of shape {value.shape}" if hasattr(value, "shape") else name
