"""Whether a node is what its operator's definition allows: how many inputs and outputs, and attributes of which types.

The definitions are those of the package `onnx`. Converters rely on this: what must be there is there.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any, NamedTuple

_NEWEST = 1 << 16  # larger versions are not asked for: the package takes them as 32 bits


class Definition(NamedTuple):
    """What a version of an operator takes."""

    inputs: tuple[int, int]
    """The least and the largest number."""
    outputs: tuple[int, int]
    needed: tuple[bool, ...]
    """Which inputs may not be left out; the last one tells of those behind it too."""
    attributes: dict[str, tuple[int, bool]]
    """The type, as a number of `AttributeProto.AttributeType`, and whether it must be there."""


@lru_cache(maxsize=1024)
def _definition(onnx: Any, op: str, version: int) -> Definition | None:
    """Return the definition of an operator of ONNX itself, None if there is none in that version."""
    try:
        schema = onnx.defs.get_schema(op, min(version, onnx.defs.onnx_opset_version()), "")
    except onnx.defs.SchemaError:
        return None
    if schema.deprecated:  # it says nothing of them
        return None
    optional = onnx.defs.OpSchema.FormalParameterOption.Optional
    return Definition(
        (schema.min_input, schema.max_input),
        (schema.min_output, schema.max_output),
        tuple(each.option != optional for each in schema.inputs),
        {name: (each.type.value, each.required) for name, each in schema.attributes.items()},
    )


def misfit(onnx: Any, proto: Any, version: int) -> str:
    """Return what is wrong with a `NodeProto` of ONNX's own operators; nothing where it is as defined."""
    definition = _definition(onnx, proto.op_type, version) if 0 < version < _NEWEST else None
    if definition is None:
        return ""
    for what, names, (least, most) in (
        ("inputs", proto.input, definition.inputs),
        ("outputs", proto.output, definition.outputs),
    ):
        if not least <= len(names) <= most:
            return f"has {len(names)} {what}, but takes {_range(least, most)}"
    for i, name in enumerate(proto.input):
        if not name and definition.needed[min(i, len(definition.needed) - 1)]:
            return f"leaves out its input {i}, which must be there"
    given = {each.name: each.type for each in proto.attribute}
    for name, (kind, required) in definition.attributes.items():
        if required and name not in given:
            return f"lacks the attribute {name!r}"
        if given.get(name, 0) not in (0, kind):  # before version 3 of the format there were no types
            types = onnx.AttributeProto.AttributeType
            found = types.Name(given[name]) if given[name] in types.values() else str(given[name])
            return f"has the attribute {name!r} as {found}, which must be {types.Name(kind)}"
    return ""


def _range(least: int, most: int) -> str:
    if least == most:
        return str(least)
    return f"at least {least}" if most >= 1 << 30 else f"{least} to {most}"
