"""One HTML page that explains a network on a picture: its layers, their times, receptive fields and feature maps.

The page is self-contained, including style and script (page.html, page.css, page.js), and forbids the browser to load
anything. All external text is escaped: in HTML by `_text`, for the script as JSON without ``<``.
"""

from __future__ import annotations

import html
import json
from base64 import b64encode
from collections.abc import Iterable, Mapping
from pathlib import Path
from string import Template
from typing import Any

import numpy as np

from convlane import _core, machine
from convlane._table import sizes
from convlane.analysis.layers import Anatomy, anatomy
from convlane.analysis.pixels import Pixels, colours, pixels, png
from convlane.analysis.receptive_field import Field, receptive_field
from convlane.analysis.roofline import roofline
from convlane.analysis.summary import Summary, short_bytes, summary
from convlane.functional._arguments import Array, as_image, as_positive
from convlane.graph import compile
from convlane.graph.interpret import interpret
from convlane.graph.plan import Report, Step
from convlane.graph.trace import Value
from convlane.nn.module import Module
from convlane.runtime import get_num_threads

_LARGEST_SIDE = 56  # pixels of a thumbnail; larger maps are reduced by averaging
_PER_ROW = 8
_GAP = 2
_VECTOR_ROW = 100  # elements of a vector that are drawn in one row


def page(
    model: Module,
    image: Any,
    *,
    title: str | None = None,
    picture: Pixels | None = None,
    note: str = "",
    channels: int = 16,
    repeat: int = 5,
) -> str:
    """Return an HTML page that explains a network on a picture.

    It shows the table of `summary` with each layer's time in the compiled network, the feature maps of each layer (on
    click), the receptive field of a position (on hover, or with the arrow keys), and the steps of the compiled network
    with a roofline plot. The page is one file that loads nothing.

    Parameters
    ----------
    model
        A network in eval mode.
    image
        The network's input, float32, (1, C, H, W) or (C, H, W).
    title
        The page's heading; by default the class of the network.
    picture
        The image to show, uint8, (H, W) or (H, W, 3); by default `image` itself, scaled from black to white.
    note
        A sentence below the heading.
    channels
        The number of channels of each layer to show, from the first on.
    repeat
        The number of times the network is run; the best time of each step is shown.

    Raises
    ------
    TypeError
        If `image` is not a float32 array, or the network does something that cannot be compiled.
    ValueError
        If there is more than one image, the network rejects its shape, or the network is in training mode.

    Examples
    --------
    >>> import numpy as np
    >>> from convlane import analysis, models
    >>> text = analysis.page(models.create("lenet5"), np.zeros((1, 32, 32), np.float32), title="LeNet-5")
    >>> text[:15], "<h1>LeNet-5</h1>" in text
    ('<!doctype html>', True)
    """
    images, _ = as_image(image, "page", "image")
    if len(images) != 1:
        raise ValueError(f"page: one image is explained at a time, got shape {images.shape}")
    limit = as_positive(channels, "page", "channels")
    plan = compile(model, images.shape)
    report = plan.profile(images, repeat=repeat)
    network, table = anatomy(model, images.shape), summary(model, images.shape)
    try:
        fields = {field.name: field for field in receptive_field(model, images.shape).fields}
    except TypeError:  # an operation has no rule; the rest of the page does not need the fields
        fields = {}
    shown = colours(images[0]) if picture is None else picture
    times = _times(network, report.steps)
    title = type(model).__name__ if title is None else title
    data = {
        "size": list(images.shape[2:]),
        **_shared_fields(fields),
        "layers": _layers(network, images, limit),
    }
    here = Path(__file__)
    template, style, script = (here.with_suffix(f".{kind}").read_text("utf-8") for kind in ("html", "css", "js"))
    return Template(template).substitute(
        title=_text(title),
        note=f"<p>{_text(note)}</p>" if note else "",
        style=style,
        script=script,
        cards=_cards(table, report),
        picture=_data_uri(png(shown)),
        height=shown.shape[0],
        width=shown.shape[1],
        layers=_layer_rows(table, fields, times),
        steps=_step_rows(report.steps, network),
        roofline=roofline(report.steps),
        machine=_text(
            f"{machine.cpu_name()}, {_core.active_isa()}, {get_num_threads()} thread{'s' * (get_num_threads() > 1)}"
        ),
        data=json.dumps(data, separators=(",", ":")).replace("<", "\\u003c"),
    )


def _cards(table: Summary, report: Report) -> str:
    seconds = sum(step.seconds or 0 for step in report.steps)
    rate = 2e-9 * sum(step.multiply_adds for step in report.steps) / seconds
    cards = {
        "layers with weights": f"{table.layers:,}",
        "on the longest path": f"{table.depth:,}",
        "parameters": f"{table.parameters:,}",
        "multiply-adds": f"{table.multiply_adds:,}",
        "activations": short_bytes(table.activation_bytes),
        "time": f"{1e3 * seconds:.2f} ms",
        "speed": f"{rate:.0f} GFLOP/s",
    }
    return "".join(f"<div><dt>{_text(name)}</dt><dd>{_text(figure)}</dd></div>" for name, figure in cards.items())


def _layer_rows(table: Summary, fields: Mapping[str, Field], times: Mapping[str, tuple[float | None, str]]) -> str:
    spent = [seconds for seconds, _ in times.values() if seconds is not None]
    rows = []
    for i, row in enumerate(table.rows[1:]):
        field = fields.get(row.name)
        seconds, within = times.get(row.name, (None, ""))
        time = f'<td class="n" title="{_text(within)}">&#8942;</td>' if seconds is None else _time(seconds, spent)
        cells = [
            _cell(str(row.layer) if row.has_weights else ""),
            f'<th scope="row"><button aria-expanded="false" data-layer="{i}">{_text(row.name)}</button></th>',
            _cell(row.kind, ""),
            time,  # early, so that a narrow window does not cut it off
            _cell(sizes(row.output_shape[1:])),
            *(
                _cell(f"{number:,}" if number else "")
                for number in (row.activations, row.parameters, row.multiply_adds)
            ),
            _cell(short_bytes(row.memory) if row.memory else ""),
            _cell("" if field is None else _pair(field.size)),
            _cell("" if field is None else _pair(field.stride)),
        ]
        rows.append(f"<tr>{''.join(cells)}</tr>")
    return "\n".join(rows)


def _step_rows(steps: Iterable[Step], network: Anatomy) -> str:
    steps = list(steps)
    layer_of = {value: layer.name for layer in network.layers for value in layer.values}
    spent = [step.seconds or 0.0 for step in steps]
    rows = []
    for step in steps:
        rates = (step.gflops, step.percent_of_peak, step.gigabytes_per_second)
        cells = [
            _cell(str(step.number)),
            _cell(step.op, ""),
            _cell("the input" if _is_copy_of_input(step, network) else layer_of[step.value], ""),
            _cell(sizes(step.output_shape)),
            f'<td title="{_text(step.why)}">{_text(step.algorithm)}</td>',
            _time(step.seconds or 0.0, spent),
            *(_cell("" if rate is None else f"{rate:.1f}") for rate in rates),
        ]
        rows.append(f'<tr data-step="{step.number}">{"".join(cells)}</tr>')
    return "\n".join(rows)


def _times(network: Anatomy, steps: Iterable[Step]) -> dict[str, tuple[float | None, str]]:
    """Return for each layer the seconds of its step, or None and the layer with which it is computed.

    A step has the value of its last operation, and the results of other operations in it are not used elsewhere. Its
    time is attributed to the first of its layers with multiply-adds.
    """
    found = {step.value: step for step in steps if not _is_copy_of_input(step, network)}
    step_of: dict[Value, Value] = {value: value for value in found}
    for value, node in reversed(list(network.nodes.items())):
        for source in node.inputs.values():
            if value in step_of:
                step_of.setdefault(source, step_of[value])
    members: dict[Value, list[Any]] = {}
    for layer in network.layers:
        if layer.values[-1] in step_of:
            members.setdefault(step_of[layer.values[-1]], []).append(layer)
    times: dict[str, tuple[float | None, str]] = {}
    for value, layers in members.items():
        costly = [layer for layer in layers if any(network.nodes[each].multiply_adds for each in layer.values)]
        main = (costly or layers[-1:])[0]
        for layer in layers:
            of_main = (found[value].seconds or 0.0, "")
            times[layer.name] = of_main if layer is main else (None, f"computed with {main.name}")
    return times


def _is_copy_of_input(step: Step, network: Anatomy) -> bool:
    """Return whether a step copies the input into the network's own memory, which no layer does."""
    node = network.nodes.get(step.value)
    return node is None or (step.op == "channels_last" and node.op != "channels_last")


def _shared_fields(fields: Mapping[str, Field]) -> dict[str, Any]:
    """Return the boxes of rows and columns, clipped to the picture; layers with equal boxes share them."""
    axes: dict[tuple[tuple[int, int], ...], int] = {}
    described = {}
    for name, field in fields.items():
        cut = []
        for seen, size in zip((field.rows, field.columns), field.picture, strict=True):
            pairs = tuple((low, high) for low, high in seen.clip(0, size - 1).tolist())
            cut.append(axes.setdefault(pairs, len(axes)))
        described[name] = {"rows": cut[0], "columns": cut[1], "size": field.size, "stride": field.stride}
    return {"axes": [list(pairs) for pairs in axes], "fields": described}


def _layers(network: Anatomy, images: Array, limit: int) -> list[dict[str, Any]]:
    """Run the network and return thumbnails and statistics of each layer's result."""
    found = {}
    for value, result in interpret(network.nodes, {layer.values[-1] for layer in network.layers}, images):
        found[value] = _thumbnails(result[0], limit)
    return [{"name": layer.name, "kind": layer.kind, **found[layer.values[-1]]} for layer in network.layers]


def _thumbnails(result: Array, limit: int) -> dict[str, Any]:
    """Return the first channels side by side in one PNG; a vector becomes one map, row by row."""
    is_vector = result.ndim != 3
    maps = _as_map(result.ravel()) if is_vector else result[:limit]
    factor = 1 if is_vector else -(-max(maps.shape[1:]) // _LARGEST_SIDE)
    small = _averaged(_averaged(maps, factor, 1), factor, 2)
    count, height, width = small.shape
    columns = min(count, _PER_ROW)
    rows = -(-count // columns)
    # Grey level 0, between the maps, is transparent.
    sheet = np.zeros((rows * (height + _GAP) - _GAP, columns * (width + _GAP) - _GAP), np.uint8)
    for i, one in enumerate(small):
        top, left = i // columns * (height + _GAP), i % columns * (width + _GAP)
        sheet[top : top + height, left : left + width] = np.maximum(
            pixels(one) & 0xFC, 1
        )  # 64 grey levels compress better
    finite = result[np.isfinite(result)]
    return {
        "shape": list(result.shape),
        "maps": [count, height, width, columns, factor],
        "vector": is_vector,
        "range": [float(f"{number:.4g}") for number in (finite.min(), finite.max())] if finite.size else None,
        "zeros": round(100 * float(np.mean(result == 0)), 1),
        "png": _data_uri(png(sheet, transparent=0)),
    }


def _as_map(vector: Array) -> Array:
    filled = np.full(-(-len(vector) // _VECTOR_ROW) * _VECTOR_ROW, np.nan, np.float32)
    filled[: len(vector)] = vector
    return filled.reshape(1, -1, _VECTOR_ROW)[:, :, : max(len(vector), 1)]


def _averaged(maps: Array, factor: int, axis: int) -> Array:
    """Average groups of neighbours along an axis; the last group may be smaller."""
    if factor == 1:
        return maps
    starts = np.arange(0, maps.shape[axis], factor)
    counts = np.diff(starts, append=maps.shape[axis]).reshape([-1 if i == axis else 1 for i in range(3)])
    return np.asarray(np.add.reduceat(maps, starts, axis) / counts, np.float32)


def _text(text: str) -> str:
    return html.escape(text, quote=True)


def _cell(text: str, kind: str = "n") -> str:
    return f'<td class="{kind}">{_text(text)}</td>' if kind else f"<td>{_text(text)}</td>"


def _time(seconds: float, all_seconds: list[float]) -> str:
    """Return milliseconds over a bar whose length is relative to the longest time."""
    width = 100 * seconds / max(*all_seconds, 1e-9)
    share = 100 * seconds / max(sum(all_seconds), 1e-9)
    text = f"{1e3 * seconds:.3f}" if seconds >= 1e-5 else f"{1e3 * seconds:.4f}"
    bar = f'<i style="width:{width:.1f}%"></i>'
    return f'<td class="n time" title="{share:.1f} % of the time">{bar}<span>{text}</span></td>'


def _pair(numbers: Iterable[float | None]) -> str:
    texts = ["?" if number is None else f"{number:g}" for number in numbers]
    return texts[0] if len(set(texts)) == 1 else "x".join(texts)


def _data_uri(file: bytes) -> str:
    return "data:image/png;base64," + b64encode(file).decode()
