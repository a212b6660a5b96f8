"""Compiled networks: the public interface."""

from __future__ import annotations

import json
import math
import operator
import os
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from convlane import _core, machine
from convlane._table import sizes, table
from convlane.functional._arguments import Array, as_array, as_batch, as_positive
from convlane.functional._op import Shape
from convlane.graph.arena import assign_slots, plan_arena
from convlane.graph.autotune import tune
from convlane.graph.computed_weights import as_products
from convlane.graph.lower import Lowered, check_supported, images_at_once, lower, output_types, steps_of
from convlane.graph.mapped import MappedFile, packings_of
from convlane.graph.modules import module_names
from convlane.graph.passes import optimize
from convlane.graph.save import open_options, read_graph, read_open, write_graph
from convlane.graph.sizes import Network, OpenShape
from convlane.graph.trace import Graph, InputShape, Measured, Node, Value, shapes_by_name, trace
from convlane.graph.weights import Packer, Weight
from convlane.runtime import get_num_threads
from convlane.safetensors_file import open_tensors


def compile(
    model: Callable[[Any], Any],
    input_shape: Sequence[int | None],
    *,
    winograd: bool = True,
    autotune: bool | str | os.PathLike[str] = False,
    whole: bool = False,
) -> Plan | OpenPlan:
    """Compile a network into a plan that runs faster and computes the same.

    The network is called once to record its operations. Batch norm is folded into the convolutions (in float64),
    activations and residual sums are computed where the convolutions store their results, weights are packed once for
    the algorithm that each layer takes, and all intermediate results share one block of memory. Later changes to the
    network do not affect the plan.

    Parameters
    ----------
    model
        A network in eval mode, or any function of one array that is made of operations of `convlane.functional`. It
        returns an array, or a list, tuple or dict of arrays.
    input_shape
        (N, C, H, W) of images, (N, C, L) of signals, (N, C, D, H, W) of volumes, or any other shape that begins with N.
        N may be None: the plan then takes any batch. The batch never changes an example's result: whatever N is, the
        network is recorded for one example, and the plan does to each what the network does to one alone. So its
        ``x.shape[0]`` is 1, and ``x.reshape(1, -1)`` or ``F.chunk(x, 2, 0)`` are those of one example; see `whole` for
        networks that mean all of them. Sizes after N, except the channels of images and volumes, may be None: then the
        plan is an `OpenPlan`, which takes any size there. For several arrays, a tuple of shapes, or a dict of shapes if
        the network takes them by name.
    winograd
        Whether 3x3 convolutions may be computed by Winograd's algorithm where that is faster. Its rounding error is up
        to 2.5 times that of a direct sum (root mean square), and it spreads a NaN or infinity over a tile of outputs.
        Outputs of one tile (4x4, or 2x2) are rounded relative to the largest of its inputs: beside a pixel of 1e8 an
        output of 1 may become 0 or -1, which a direct sum keeps.
    autotune
        Whether to time the algorithms that a layer has to choose from, with the number of threads now in force and the
        batch of `input_shape` (1 where that is None; for a large batch, the part that runs at once), instead of
        trusting a cost model. True keeps the times for the life of the process; the path of a file keeps them there
        too, and layers that it has times for are not timed again. See Notes.
    whole
        Whether the network may mix the examples of a batch. The plan then takes inputs of exactly these shapes, of any
        rank, and computes them as a whole. Weights of convolutions and linear layers may be computed, too.

    Returns
    -------
    Plan or OpenPlan
        Call it with images.

    Raises
    ------
    TypeError
        The network does something to an array that is not an operation of `convlane.functional`.
    ValueError
        A module is in training mode, an operation refuses the shape that reaches it, or the network uses operations
        that a plan cannot compute; all of them are named at once. Or the file of `autotune` exists and was not written
        by this function; it is left as it is.
    OSError
        The file of `autotune` cannot be read or written.

    Notes
    -----
    Autotuning takes about a tenth of a second for each different layer that has a choice: one second for a ResNet-50,
    four for a VGG-16, and about 30 runs of the network where the batch is large. Keep the machine idle meanwhile.
    Weights are not in the caches while a layer is timed, as in a network that has other layers too. An algorithm
    replaces the one that the cost model expects to be fastest if it is at least 3 % faster. `Plan.describe` shows all
    times.

    Algorithms round differently, so a tuned plan's last bits may differ from those of an untuned one and of one tuned
    elsewhere or at another time. A plan keeps its choices, also when it is saved or pickled, and gives the same bits
    for any batch and number of threads.

    The file is JSON. It may hold the times of several machines, settings and networks: a time is used only for the same
    CPU model, instruction set, number of threads, batch, layer and version of convlane. It is replaced atomically, so
    an interrupt leaves the old one; processes may share it.

    Examples
    --------
    >>> import numpy as np, convlane
    >>> from convlane import nn
    >>> network = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU()).eval()
    >>> plan = convlane.compile(network, (None, 3, 32, 32))
    >>> plan
    Plan((None, 3, 32, 32) to (None, 8, 32, 32), 1 step)
    >>> plan(np.zeros((2, 3, 32, 32), np.float32)).shape
    (2, 8, 32, 32)
    """
    if not callable(model):
        raise TypeError(f"compile: model must be a network or a function of arrays, got {type(model).__name__}")
    if whole:
        if autotune is not False:
            raise ValueError("compile: autotune is for batches of examples, not for whole inputs")
        graph = assign_slots(_traced(model, _given(input_shape), whole=True))
        return Plan(graph, None, winograd=bool(winograd), whole=True)
    if _is_open(input_shape):
        if autotune is not False:
            raise ValueError("compile: autotune needs a size, input_shape leaves it open")
        network = Network(model, isinstance(input_shape, Mapping))
        return OpenPlan(network, _checked(input_shape), winograd=bool(winograd))
    batch, shape = _for_one(input_shape)
    graph = _traced(model, shape)
    if autotune is not False:
        graph = tune(graph, batch or 1, bool(winograd), autotune)
    return Plan(assign_slots(graph), batch, winograd=bool(winograd))


def plan_of(model: Callable[..., Any], shape: InputShape, shared: Shared, *, whole: bool) -> Plan:
    """Return a plan that shares weights and memory with others: for any batch of examples, or for whole inputs."""
    return Plan(assign_slots(_traced(model, shape, whole=whole)), None, winograd=True, shared=shared, whole=whole)


def _traced(model: Callable[..., Any], shape: InputShape, *, whole: bool = False) -> Graph:
    try:
        graph = trace(model, shape)
    except _core.SizeOverflow as error:
        raise ValueError(f"compile: {error}") from None
    graph = optimize(as_products(graph) if whole else graph)
    check_supported(graph, partial(module_names, model, shape), whole=whole)
    return graph


def _given(input_shape: Any) -> Any:
    """Return shapes without open sizes."""
    for name, shape in shapes_by_name(input_shape).items():
        if None in shape:
            raise ValueError(f"compile: whole inputs have no open sizes, but {name} has the shape {shape}")
        for size in shape:
            as_positive(size, "compile", "input_shape")
    return input_shape


def load_plan(path: str | os.PathLike[str], *, mmap: bool = False) -> Plan | OpenPlan:
    """Read a plan that `Plan.save` or `OpenPlan.save` wrote.

    Nothing in the file is executed, and everything is checked that `compile` would check, so a file of unknown origin
    does no harm. Weights are packed for the CPU of the machine that reads it; the algorithms are those that `compile`
    would choose there, or those that autotuning chose for the plan that was saved.

    Parameters
    ----------
    path
        The file.
    mmap
        Whether to use the packed weights in place in the file, which must have them: ``save(path, packed=True)``. All
        processes of a machine then share that memory, which is read-only. See Notes.

    Warns
    -----
    RuntimeWarning
        With `mmap`: the file has no packed weights, or they were packed for another instruction set, another version or
        other algorithms. What is missing has been packed by this process, in memory of its own. This is always so for
        plans of open size.

    Raises
    ------
    OSError
        The file cannot be opened or read.
    ValueError
        It is damaged, not a plan, or of another version's format; the message names it and says what is wrong.

    Notes
    -----
    Weights of less than 64 KB, and those of transposed convolutions, are copied or packed by each process. The others
    must not change on disk while they are mapped. A file may be replaced or removed: `Plan.save`, ``mv`` and ``rsync``
    do that, and the old one remains as long as it is in use. It must not be overwritten or truncated in place, as
    ``cp`` to the same name does. Each call of the plan checks the file's size and time; if they differ, it compares the
    checksums again, and raises a ValueError if those differ, too. Only a change between this check and the end of the
    call goes unnoticed: changed weights are used then, and if the file is truncated within that time, the system ends
    the process with SIGBUS.

    Examples
    --------
    >>> import os, tempfile
    >>> import numpy as np, convlane
    >>> from convlane import nn
    >>> plan = convlane.compile(nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU()).eval(), (None, 3, 32, 32))
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = os.path.join(folder, "network.plan")
    ...     plan.save(path)
    ...     again = convlane.load_plan(path)
    >>> again
    Plan((None, 3, 32, 32) to (None, 8, 30, 30), 1 step)
    >>> image = np.ones((1, 3, 32, 32), np.float32)
    >>> bool((again(image) == plan(image)).all())
    True
    """
    with open_tensors(path) as file:
        mapped = None
        try:
            if mmap:
                mapped = MappedFile(file.map(), packings_of(file))
            graph, options = read_graph(file, mapped)
            whole = options.pop("whole", False)
            kinds = {type(options.get("winograd")), type(whole)}
            if options.keys() - {"open"} != {"batch", "winograd"} or kinds != {bool}:
                raise ValueError("its options must be batch and winograd, which is true or false, and perhaps open")
            batch = None if options["batch"] is None or whole else as_positive(options["batch"], "plan", "batch")
            winograd = options["winograd"]
            plan: Plan | OpenPlan
            if "open" not in options:
                plan = Plan(assign_slots(graph), batch, winograd=winograd, whole=whole, mapped=mapped)
                warning = mapped.repacked() if mapped is not None else ""
            else:
                graph, shapes, named = read_open(read_graph(file)[0] if mmap else graph, options)
                plan = OpenPlan(Network(None, named, graph), shapes, winograd=winograd)
                warning = "its sizes are open, so each process packs its own weights" if mmap else ""
        except (TypeError, ValueError, ArithmeticError, RecursionError) as error:
            raise ValueError(f"{file.path}: not a valid plan: {error}") from error
    if warning:
        warnings.warn(f"{file.path}: {warning}", RuntimeWarning, stacklevel=2)
    return plan


class Plan:
    """A compiled network, made by `compile`. Call it with images (N, C, H, W), one image (C, H, W), or other inputs.

    Several threads may run one plan at once. A plan can be pickled and copied; the copy packs its weights for the
    instruction set that is active then.
    """

    def __init__(
        self,
        graph: Graph,
        batch: int | None,
        *,
        winograd: bool,
        shared: Shared | None = None,
        whole: bool = False,
        mapped: MappedFile | None = None,
    ) -> None:
        self._graph, self._batch, self._winograd, self._whole = graph, batch, winograd, whole
        self._input_shapes = {name: graph.nodes[value].shape for name, value in graph.inputs.items()}
        self._mapped = mapped
        self._offsets, self._arena = plan_arena(graph)
        self._at_once = 1 if whole else images_at_once(graph, self._arena)
        self._output_types: tuple[int, list[tuple[str, Shape, Shape]]] | None = None
        self._shared = shared
        self._memory = _core.PlanMemory() if shared is None else shared.memory
        self._build(_core.active_isa())

    def _build(self, isa: str) -> None:
        """Pack the weights for an instruction set, by lowering the graph for the most likely batch."""
        packer = Packer() if self._shared is None else self._shared.packer(isa)
        batch, threads = min(self._batch or 1, self._at_once), get_num_threads()
        lowered = self._lower(batch, threads, packer)
        self._choices = lowered.choices
        if self._shared is None:
            self._graph = packer.relieve(self._graph)
        self._built = _Built(isa, packer, {(batch, threads): lowered})
        self._limit_memory()

    def _limit_memory(self) -> None:
        """Keep as much memory for the next run as the largest recent batch takes."""
        if self._shared is None:
            self._memory.limit(self._built.memory_bytes)

    def _lower(self, batch: int, threads: int, packer: Packer) -> Lowered:
        return lower(
            self._graph,
            self._offsets,
            self._arena,
            batch=batch,
            threads=threads,
            winograd=self._winograd,
            packer=packer,
        )

    def _check_file(self) -> None:
        """Raise if weights lie in a file that has changed."""
        if self._mapped is not None:
            self._mapped.tensors.check()

    def _lowered(self, batch: int) -> Lowered:
        """Return the plan for this many images at once: it is made when a number occurs for the first time."""
        self._check_file()
        built, key = self._built, (batch, get_num_threads())
        if built.isa != _core.active_isa():
            self._build(_core.active_isa())
            built = self._built
        lowered = built.batches.get(key)
        if lowered is None:
            lowered = self._lower(*key, built.packer)
            built.remember(key, lowered)
            self._limit_memory()
        return lowered

    def _parts(self, inputs: Sequence[Array]) -> Iterator[tuple[Lowered, list[Array], Any]]:
        """Split a batch into parts that run at once, given as slices of it, or None for all of it."""
        count = 1 if self._whole else len(inputs[0])
        if self._whole or 0 < count <= self._at_once:
            yield self._lowered(count), list(inputs), None
            return
        for first in range(0, count, self._at_once):
            part = slice(first, min(first + self._at_once, count))
            yield self._lowered(part.stop - part.start), [array[part] for array in inputs], part

    def _new_outputs(self, batch: int) -> list[Array]:
        kept = self._output_types  # those of the last batch: finding them takes longer than a small layer
        if kept is None or kept[0] != batch:
            kept = self._output_types = batch, output_types(self._graph, batch)
        return [_core.new_array(kind) for kind in kept[1]]

    @property
    def input_shape(self) -> Any:
        """The shape that the plan was compiled for, with None for any batch; a dict of shapes for several inputs."""
        shapes = {
            name: self._public_shape(self._graph.nodes[value].shape) for name, value in self._graph.inputs.items()
        }
        return shapes if len(shapes) > 1 else shapes.popitem()[1]

    @property
    def output_shape(self) -> Any:
        """Shape of the output, with the batch of `input_shape`; a tuple or dict of shapes where there are several."""
        shapes = {name: self._graph.nodes[value].shape for name, value in self._graph.outputs.items()}
        return self._as_returned({name: self._public_shape(shape) for name, shape in shapes.items()})

    def _public_shape(self, shape: Shape) -> Any:
        """Return a shape of the graph with the batch of the plan."""
        return shape if self._whole else (self._batch, *shape[1:])

    def _as_returned(self, named: Mapping[str, Any]) -> Any:
        """Return values, one for each output, in the structure that the network returns."""
        returns = self._graph.returns
        if returns == "dict":
            return dict(named)
        if not isinstance(returns, str):
            return _filled(returns, named)
        return tuple(named.values()) if returns == "tuple" else next(iter(named.values()))

    @property
    def arena_bytes(self) -> int:
        """Bytes that all intermediate results of one image take together."""
        return 4 * self._arena

    @property
    def memory_bytes(self) -> int:
        """Bytes that the plan keeps for the intermediate results of future runs."""
        return self._memory.nbytes

    @property
    def largest_run_bytes(self) -> int:
        """Bytes that the largest recent batch needs for the intermediate results of a run."""
        return self._built.memory_bytes

    @property
    def activation_bytes(self) -> int:
        """Bytes that they would take if each had its own memory."""
        return sum(_bytes_of(self._graph.nodes[value]) for value in self._offsets)

    @property
    def multiply_adds(self) -> int:
        """Multiply-adds for one image."""
        return sum(node.multiply_adds for node in self._graph.nodes.values())

    def __call__(self, *inputs: Any, **named: Any) -> Any:
        """Run the network.

        Parameters
        ----------
        inputs, named
            float32 or float16, (N, C, H, W) or one image (C, H, W), any strides: what the network takes, in its order
            or by the names that the plan was compiled with. Other inputs likewise: with N or without.

        Returns
        -------
        numpy.ndarray
            float32, what the network returns. Images are channels last in memory. A tuple or dict of arrays where the
            network returns several; where it returns the same one twice, both are the same array.

        Raises
        ------
        TypeError
            If there are more or fewer inputs, or one is not such an array.
        ValueError
            If a shape is not one that the plan was compiled for.
        """
        images, single = self._images(inputs, named)
        results = self._new_outputs(1 if self._whole else len(images[0]))
        for lowered, parts, part in self._parts(images):
            lowered.core.run(parts, results if part is None else [array[part] for array in results], self._memory)
        if self._graph.returns == "array":  # the usual case; what follows takes longer than a small layer
            return results[0][0] if single else results[0]
        outputs = self._graph.outputs
        arrays = dict(zip(dict.fromkeys(outputs.values()), results, strict=True))
        returned = {name: arrays[value] for name, value in outputs.items()}
        return self._as_returned({name: array[0] for name, array in returned.items()} if single else returned)

    def save(self, path: str | os.PathLike[str], *, packed: bool = False) -> None:
        """Write the plan to a file, from which `convlane.load_plan` restores it.

        The file holds the simplified network and its weights in the safetensors layout, and no code. It is written
        atomically: an existing file is replaced only when the new one is complete.

        Parameters
        ----------
        path
            The file.
        packed
            Whether to write the weights also as packed for this machine, so that processes can share them:
            ``load_plan(path, mmap=True)``. The file is then more than twice as large (up to five times for a network of
            3x3 convolutions).

        Raises
        ------
        OSError
            It cannot be written. Nothing is left behind then.
        ValueError
            The weights lie in a file that has changed since it was mapped.
        """
        self._check_file()
        options = {"batch": self._batch, "winograd": self._winograd}
        built = self._built
        kept = (built.packer, built.isa) if packed else ()
        write_graph(path, self._graph, {**options, "whole": True} if self._whole else options, *kept)

    def describe(self) -> Report:
        """Describe what the plan does, step by step; print the result to see it as a table."""
        return Report(tuple(self._steps()), self.arena_bytes, self.activation_bytes)

    def profile(
        self, *inputs: Any, trace: str | os.PathLike[str] | None = None, repeat: int = 5, **named: Any
    ) -> Report:
        """Run the network and measure how long each step takes.

        Parameters
        ----------
        inputs, named
            As for a call; the batch must not be empty.
        trace
            Where to write the times as a Chrome trace (JSON), to be opened with ``chrome://tracing`` or Perfetto.
        repeat
            Number of runs, after a warm-up run; the best time of each step is reported.

        Raises
        ------
        TypeError, ValueError
            As for a call.
        """
        images, _ = self._images(inputs, named)
        count = 1 if self._whole else len(images[0])
        if count == 0 or operator.index(repeat) < 1:
            raise ValueError(f"profile: needs an image and a run, got shape {images[0].shape} and repeat={repeat}")
        results = self._new_outputs(count)

        def times() -> Any:
            """Return the seconds of each node, in all parts of the batch."""
            parts = self._parts(images)
            return sum(
                lowered.seconds(given, [array[part or ...] for array in results], self._memory)
                for lowered, given, part in parts
            )

        times()
        best = np.min([times() for _ in range(repeat)], axis=0)
        report = Report(
            tuple(self._steps(best.tolist(), count, machine.fma_peak())), self.arena_bytes, self.activation_bytes
        )
        if trace is not None:
            Path(trace).write_text(json.dumps({"traceEvents": report.trace_events(), "displayTimeUnit": "ms"}))
        return report

    def _images(self, inputs: Sequence[Any], named: Mapping[str, Any]) -> tuple[list[Array], bool]:
        """Return the batches in the order of the network's inputs, and whether they were single images."""
        shapes = self._input_shapes
        given = dict(zip(shapes, inputs, strict=False))
        if named or len(inputs) != len(shapes):
            if len(inputs) > len(shapes) or given.keys() & named.keys() or {*given, *named} != {*shapes}:
                got = [*(f"{len(inputs)} in order" for _ in inputs[:1]), *named]
                raise TypeError(f"plan: the inputs are {', '.join(shapes)}, got {', '.join(got) or 'none'}")
            given |= named
        if self._whole:
            arrays = {name: as_array(given[name], "plan", name) for name in shapes}
            for name, array in arrays.items():
                if array.shape != shapes[name]:
                    raise ValueError(
                        f"plan: {name} has shape {array.shape}, but the plan was compiled for {shapes[name]}"
                    )
            return list(arrays.values()), False
        images = {name: as_batch(given[name], "plan", len(shape), name) for name, shape in shapes.items()}
        singles = {single for _, single in images.values()}
        counts = {len(array) for array, _ in images.values()}
        if len(singles) > 1 or len(counts) > 1:
            raise ValueError(
                f"plan: the inputs must have the same N, got {[array.shape for array, _ in images.values()]}"
            )
        for name, (array, _) in images.items():
            expected = (self._batch, *shapes[name][1:])
            if array.shape[1:] != expected[1:] or self._batch not in (None, len(array)):
                hint = "" if array.shape[1:] != expected[1:] else "; compile with None as batch to take any"
                raise ValueError(
                    f"plan: {name} has shape {array.shape}, but the plan was compiled for {expected}{hint}"
                )
        return [array for array, _ in images.values()], singles.pop()

    def _steps(self, seconds: Sequence[float] = (), images: int = 1, peak: float = 0.0) -> list[Step]:
        nodes = steps_of(self._graph).items()
        return [
            Step(
                i,
                value,
                " + ".join(_parts(node)),
                self._graph.nodes[next(iter(node.inputs.values()))].shape[1:],
                node.shape[1:],
                choice.algorithm,
                choice.why,
                images * node.multiply_adds,
                _bytes(node, self._graph, images),
                4 * self._offsets[value] if value in self._offsets else None,
                seconds[i] if seconds else None,
                peak,
                node.measured,
            )
            for i, ((value, node), choice) in enumerate(zip(nodes, self._choices, strict=True))
        ]

    def __repr__(self) -> str:
        steps = len(self._choices)
        return f"Plan({self.input_shape} to {self.output_shape}, {steps} step{'s' * (steps != 1)})"

    def __getstate__(self) -> dict[str, Any]:
        self._check_file()
        return {"graph": self._graph, "batch": self._batch, "winograd": self._winograd, "whole": self._whole}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(  # type: ignore[misc]
            state["graph"], state["batch"], winograd=state["winograd"], whole=state["whole"]
        )


class OpenPlan:
    """A network compiled for pictures of any size, made by `compile`.

    Call it as a `Plan`. A size that is met for the first time is planned. What the network computes from sizes (bounds
    of slices, shapes, factors) is computed again. It is traced again only if it was told something of sizes that is not
    so now: by a comparison, or as a number for others than operations of `convlane.functional`. The weights are packed
    once for all sizes, and all share one memory. The eight
    sizes met last are kept, each with the batches that came.

    Examples
    --------
    >>> import numpy as np, convlane
    >>> from convlane import nn
    >>> plan = convlane.compile(nn.Conv2d(3, 8, 3).eval(), (None, 3, None, None))
    >>> plan(np.zeros((1, 3, 20, 30), np.float32)).shape
    (1, 8, 18, 28)
    >>> plan(np.zeros((2, 3, 9, 7), np.float32)).shape
    (2, 8, 7, 5)
    """

    def __init__(self, network: Network, shapes: Mapping[str, OpenShape], *, winograd: bool) -> None:
        self._network, self._shapes, self._winograd = network, shapes, winograd
        self._plans: dict[tuple[Shape, ...], Plan] = {}
        self._shared = Shared()

    @property
    def input_shape(self) -> Any:
        """The shape that the plan was compiled for, None where it is open; a dict of shapes for several inputs."""
        return dict(self._shapes) if len(self._shapes) > 1 else next(iter(self._shapes.values()))

    @property
    def _batch(self) -> int | None:
        return next(iter(self._shapes.values()))[0]

    @property
    def memory_bytes(self) -> int:
        """Bytes that are kept for the intermediate results of future runs, of any size."""
        return self._shared.memory.nbytes

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the plan to a file, from which `convlane.load_plan` restores it: see `Plan.save`.

        A plan that has not yet run traces the network for a size of its own choice.

        Raises
        ------
        OSError
            It cannot be written. Nothing is left behind then.
        ValueError
            The network was told something of sizes that is not so for others, so that what it does there is not known;
            the message says what. Save the plan of one size, which `at` returns.
        """
        graph = self._network.for_all(self._shapes)
        opened = open_options(graph, self._shapes, self._network.named)
        write_graph(path, graph, {"batch": self._batch, "winograd": self._winograd, "open": opened})

    def __call__(self, *inputs: Any, **named: Any) -> Any:
        """Run the network, see `Plan.__call__`.

        Raises
        ------
        TypeError, ValueError
            As there; or the network refuses the size.
        """
        plan, images = self._plan_for(inputs, named)
        return plan(*images)

    def profile(self, *inputs: Any, **options: Any) -> Report:
        """Run the network and measure how long each step takes, see `Plan.profile`."""
        named = {name: options.pop(name) for name in self._shapes if name in options}
        plan, images = self._plan_for(inputs, named)
        return plan.profile(*images, **options)

    def _plan_for(self, inputs: Sequence[Any], named: Mapping[str, Any]) -> tuple[Plan, list[Any]]:
        given = {**dict(zip(self._shapes, inputs, strict=False)), **named}
        if len(inputs) + len(named) != len(self._shapes) or given.keys() != self._shapes.keys():
            raise TypeError(f"plan: the inputs are {', '.join(self._shapes)}")
        sizes = []
        for name, expected in self._shapes.items():
            array, _ = as_batch(given[name], "plan", len(expected), name)
            if any(size not in (None, got) for size, got in zip(expected, array.shape, strict=True)):
                raise ValueError(f"plan: {name} has shape {array.shape}, but it was compiled for {expected}")
            sizes.append(array.shape[1:])
        return self.at(*sizes), [given[name] for name in self._shapes]

    def at(self, *sizes: Sequence[int]) -> Plan:
        """Return the plan for images (C, H, W), one for each input: to describe, profile or save it."""
        key = tuple(tuple(size) for size in sizes)
        if list(map(len, key)) != [len(shape) - 1 for shape in self._shapes.values()]:
            raise ValueError(f"plan: the sizes of one example of {self._shapes} are wanted, got {key}")
        plan = self._plans.get(key)
        if plan is None:
            graph = self._network.at({name: (1, *size) for name, size in zip(self._shapes, key, strict=True)})
            plan = Plan(assign_slots(graph), self._batch, winograd=self._winograd, shared=self._shared)
        others = {other: kept for other, kept in self._plans.items() if other != key}
        while len(others) >= _KEPT_SIZES:
            del others[next(iter(others))]
        self._plans = {**others, key: plan}
        self._shared.memory.limit(max(plan._built.memory_bytes for plan in self._plans.values()))
        return plan

    def __repr__(self) -> str:
        return f"OpenPlan({self.input_shape}, {len(self._plans)} sizes)"

    def __getstate__(self) -> dict[str, Any]:
        return {"network": self._network, "shapes": self._shapes, "winograd": self._winograd}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(state["network"], state["shapes"], winograd=state["winograd"])  # type: ignore[misc]


class Shared:
    """What the plans of one network for several sizes share."""

    def __init__(self) -> None:
        self.memory = _core.PlanMemory()
        self._packers: dict[str, Packer] = {}

    def packer(self, isa: str) -> Packer:
        """Return the packer of the weights for an instruction set."""
        return self._packers.setdefault(isa, Packer())


_KEPT_SIZES = 8


@dataclass
class _Built:
    """What runs on one instruction set: packed weights, and a plan for each recent number of images and threads."""

    isa: str
    packer: Packer
    batches: dict[tuple[int, int], Lowered]

    @property
    def memory_bytes(self) -> int:
        """What the largest of them needs for a run."""
        return max(lowered.core.memory_bytes for lowered in self.batches.values())

    def remember(self, key: tuple[int, int], lowered: Lowered) -> None:
        """Keep a plan; if there are too many, the oldest is dropped."""
        batches = {**self.batches, key: lowered}
        while len(batches) > _KEPT_SIZES:
            del batches[next(iter(batches))]
        self.batches = batches  # other threads may be reading the old ones


@dataclass(frozen=True)
class Step:
    """One step of a plan; shapes without the batch."""

    number: int
    value: Value
    """The result of the traced network that it computes."""
    op: str
    input_shape: Shape
    output_shape: Shape
    algorithm: str
    why: str
    multiply_adds: int
    bytes: int
    """Read and written: images, results and weights as the network has them."""
    offset: int | None
    """Of the result, in bytes from the arena's start for one image; None for the array that is returned."""
    seconds: float | None = None
    peak: float = 0.0
    measured: Measured | None = None
    """The times of the algorithms that autotuning chose from; in a block the last convolution has those of all."""

    @property
    def gflops(self) -> float | None:
        """GFLOP/s; a multiply-add counts two operations. None without a time or without multiply-adds."""
        return 2e-9 * self.multiply_adds / self.seconds if self.seconds and self.multiply_adds else None

    @property
    def percent_of_peak(self) -> float | None:
        """Share of `convlane.machine.fma_peak`."""
        return None if self.gflops is None else 1e11 * self.gflops / self.peak

    @property
    def gigabytes_per_second(self) -> float | None:
        """`bytes` over the time; for a linear layer on one image the bound is `convlane.machine.read_bandwidth`."""
        return 1e-9 * self.bytes / self.seconds if self.seconds else None


@dataclass(frozen=True)
class Report:
    """The steps of a plan; as text, a table."""

    steps: tuple[Step, ...]
    arena_bytes: int
    activation_bytes: int

    @property
    def tuning_gain(self) -> float:
        """Seconds that autotuning saves in a run, by the times that it measured."""
        return sum(step.measured.gain for step in self.steps if step.measured)

    def trace_events(self) -> list[dict[str, Any]]:
        """Return the steps as events of a Chrome trace, one after the other."""
        events, start = [], 0.0
        for step in self.steps:
            duration = 1e6 * (step.seconds or 0.0)
            arguments = {
                "input": str(step.input_shape),
                "output": str(step.output_shape),
                "algorithm": step.algorithm,
                "multiply-adds": step.multiply_adds,
                "bytes": step.bytes,
            }
            name = f"{step.number} {step.op}"
            events.append(
                {"name": name, "ph": "X", "ts": start, "dur": duration, "pid": 0, "tid": 0, "args": arguments}
            )
            start += duration
        return events

    def __str__(self) -> str:
        timed = any(step.seconds is not None for step in self.steps)
        head = ["step", "op", "input", "output", "algorithm", "why", "multiply-adds", "bytes", "offset"]
        rows = [head + ["ms", "GFLOP/s", "% of peak", "GB/s"] * timed]
        for step in self.steps:
            row = [
                str(step.number),
                step.op,
                sizes(step.input_shape),
                sizes(step.output_shape),
                step.algorithm,
                step.why,
                f"{step.multiply_adds:,}",
                f"{step.bytes:,}",
                "output" if step.offset is None else f"{step.offset:,}",
            ]
            if timed:
                rates = (step.gflops, step.percent_of_peak, step.gigabytes_per_second)
                row += [f"{1e3 * (step.seconds or 0):.3f}", *map(_rounded, rates)]
            rows.append(row)
        lines = table(rows, _RIGHT)
        total = f"arena: {self.arena_bytes:,} bytes per image; separate results would take {self.activation_bytes:,}"
        measured = [step.measured for step in self.steps if step.measured]
        if measured:
            changed = sum(one.chosen != one.expected for one in measured)
            gain = f"{1e3 * self.tuning_gain:.3f} ms gained"
            total += f"\nautotuning: {changed} of {len(measured)} choices differ from the cost model's, {gain}"
        if timed:
            total += f"\nall steps: {1e3 * sum(step.seconds or 0 for step in self.steps):.3f} ms"
        return "\n".join([*lines, total])

    __repr__ = __str__


_RIGHT = frozenset({"step", "multiply-adds", "bytes", "offset", "ms", "GFLOP/s", "% of peak", "GB/s"})


def _filled(container: Any, named: Mapping[str, Any]) -> Any:
    """Return containers in which names are replaced by what has these names."""
    if isinstance(container, dict):
        return {key: _filled(each, named) for key, each in container.items()}
    if isinstance(container, list):
        return tuple(_filled(each, named) for each in container)
    return None if container is None else named[container]


def _is_open(input_shape: Any) -> bool:
    """Whether more than the batch is left open."""
    return any(None in shape[1:] for shape in shapes_by_name(input_shape).values())


def _checked(input_shape: Any) -> dict[str, OpenShape]:
    """Return the shapes of the inputs by name, with None where they are open."""
    shapes = shapes_by_name(input_shape)
    for name, shape in shapes.items():
        if len(shape) < 2 or (len(shape) > 3 and shape[1] is None):
            what = "input_shape" if len(shapes) == 1 else f"input_shape of {name}"
            kind = "with the number of channels" if len(shape) > 3 else "or another shape that begins with N"
            raise ValueError(f"compile: {what} must be (N, C, H, W) {kind}, got {shape}")
    return {
        name: tuple(None if size is None else as_positive(size, "compile", "input_shape") for size in shape)
        for name, shape in shapes.items()
    }


def _for_one(input_shape: Any) -> tuple[int | None, InputShape]:
    """Return the batch, and the shape or shapes of one example in the structure given."""
    shapes = _checked(input_shape)
    batches = {shape[0] for shape in shapes.values()}
    if len(batches) != 1:
        raise ValueError(f"compile: all inputs must have the same N, got {', '.join(map(str, shapes.values()))}")
    single: dict[str, Any] = {name: (1, *shape[1:]) for name, shape in shapes.items()}
    given: InputShape = single if isinstance(input_shape, Mapping) else tuple(single.values())
    return batches.pop(), single["input"] if single.keys() == {"input"} and given is not single else given


def _parts(node: Node) -> list[str]:
    """Name the operations in a node, including the activation that it always had."""
    if "parts" in node.attributes and not node.fused:  # as blocks, which name theirs
        return [name for part in node.attributes["parts"] for name in _parts(part)]
    activation = node.attributes.get("activation", "none")
    return [node.op, *node.fused, *([activation] if activation not in ("none", *node.fused) else [])]


def _bytes(node: Node, graph: Graph, images: int) -> int:
    results = [node, *(graph.nodes[source] for source in node.inputs.values())]
    holders = node.attributes.get("parts", (node,))
    arrays = [v for holder in holders for v in holder.attributes.values() if isinstance(v, (np.ndarray, Weight))]
    return images * sum(map(_bytes_of, results)) + sum(array.nbytes for array in arrays)


def _bytes_of(node: Node) -> int:
    """Return the size of a node's result."""
    return math.prod(node.shape) * node.dtype.itemsize


def _rounded(number: float | None) -> str:
    return "" if number is None else f"{number:.1f}"
