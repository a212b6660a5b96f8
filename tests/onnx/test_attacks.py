"""Attacks: files that try to exhaust memory or time, or to reach other files, in a process with little memory."""

import json
import subprocess
import sys
import textwrap

import numpy as np
import pytest

onnx = pytest.importorskip("onnx")

from onnx import AttributeProto, TensorProto, helper, numpy_helper  # noqa: E402

MEMORY, SECONDS = 300 << 20, 3
FLOAT, INT64 = TensorProto.FLOAT, TensorProto.INT64


def model(nodes, *initializers, shape=(1, 2), functions=()):
    """Return a model from x to y; initialisers are tensors, or integers by name."""
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", FLOAT, shape)],
        [helper.make_tensor_value_info("y", FLOAT, None)],
        initializers,
    )
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("own", 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=8, functions=functions)


def node(op, *inputs, output="y", **attributes):
    return helper.make_node(op, inputs, [output], **attributes)


def numbers(name, *values):
    return numpy_helper.from_array(np.array(values, np.int64), name)


def tensor(name="w", kind=FLOAT, **fields):
    return TensorProto(name=name, data_type=kind, **fields)


def outside(**entries):
    """Return an initialiser whose data are in another file."""
    found = tensor(dims=[2], data_location=TensorProto.EXTERNAL)
    for key, value in {"location": "w.bin", **entries}.items():
        found.external_data.add(key=key, value=str(value))
    return found


def function(name, *called):
    """Return a function that calls others in turn."""
    names = ["x", *(f"t{i}" for i in range(len(called) - 1)), "y"]
    nodes = [
        helper.make_node(op, [names[i]], [names[i + 1]], domain="" if op == "Relu" else "own")
        for i, op in enumerate(called)
    ]
    return helper.make_function("own", name, ["x"], ["y"], nodes, model([]).opset_import)


def nested(depth):
    """Return the bytes of nested graphs: protobuf messages, written from the innermost one."""
    inner = model([node("Relu", "x")]).graph.SerializeToString()
    for _ in range(depth):
        attribute = AttributeProto(name="then_branch", type=AttributeProto.GRAPH).SerializeToString()
        inner = field(1, node("If", "x").SerializeToString() + field(5, attribute + field(6, inner)))
    return model([]).SerializeToString()[:2] + field(7, inner)


def field(number, contents):
    """Return a field of a message that holds bytes."""
    length, head = len(contents), bytearray([number << 3 | 2])
    while length >= 0x80:
        head.append(length & 0x7F | 0x80)
        length >>= 7
    return bytes(head) + bytes([length]) + contents


def with_attribute(op, name, value, *inputs):
    return model([node(op, "x", *inputs, **{name: value})], tensor(dims=[2, 2, 1, 1], float_data=[1] * 4))


HUGE = 2**62
USES_W = [node("Mul", "x", "w")]
SHAPES = {
    "overflow to nothing": [2**32, 2**32],
    "overflow to a little": [2**62, 2, 2, 1],
    "no numbers of a huge shape": [0, HUGE, HUGE],
    "terabytes": [2**42],
    "negative": [-1, -2],
    "smallest": [-(2**63)],
    "many dimensions": [1] * 10000,
}
KINDS = {"text": TensorProto.STRING, "complex": TensorProto.COMPLEX64, "none": 0, "unknown": 999}
SPANS = {
    "offset beyond the end": {"offset": HUGE},
    "length beyond the end": {"length": HUGE},
    "negative offset": {"offset": -8},
    "negative length": {"length": -8},
    "offset in digits of another script": {"offset": "\u0669\u0669\u0669"},
    "a million digits": {"offset": "9" * 1_000_000},
    "no number": {"length": "0x8"},
    "just too long": {"offset": 60, "length": 8},
}
PLACES = (
    "../w.bin",
    "/etc/passwd",
    "link",
    "folder",
    "folder/w.bin",
    "w.bin\0",
    "",
    ".",
    "~",
    "file:w.bin",
    "C:\\w.bin",
)
MADE = {
    "ConstantOfShape": model([node("ConstantOfShape", "s")], numbers("s", 2**20, 2**20)),
    "Expand": model([node("Expand", "c", "s")], numbers("c", 1), numbers("s", 2**20, 2**20)),
    "Tile": model([node("Tile", "c", "s")], numbers("c", 1), numbers("s", 2**45)),
    "Range": model([node("Range", "a", "b", "c")], *(numbers(n, v) for n, v in (("a", 0), ("b", HUGE), ("c", 1)))),
    "OneHot": model([node("OneHot", "i", "d", "v")], numbers("i", 1), numbers("d", 2**45), numbers("v", 0, 1)),
    "Pad": model([node("Pad", "c", "p")], numbers("c", 1), numbers("p", 2**40, 2**40)),
    "outer product": model(
        [node("Add", "a", "b")],
        numpy_helper.from_array(np.zeros((2**16, 1), np.int64), "a"),
        numpy_helper.from_array(np.zeros((1, 2**16), np.int64), "b"),
    ),
}
RELUS = [helper.make_node("Relu", ["x" if i == 0 else f"t{i}"], [f"t{i + 1}"]) for i in range(3000)]
ATTACKS = {
    **{f"shape: {name}": model(USES_W, tensor(dims=dims, raw_data=b"")) for name, dims in SHAPES.items()},
    **{
        f"shape, some numbers: {name}": model(USES_W, tensor(dims=dims, float_data=[1, 2]))
        for name, dims in SHAPES.items()
    },
    **{
        f"shape of an attribute: {name}": with_attribute("Constant", "value", tensor(dims=dims))
        for name, dims in SHAPES.items()
    },
    **{
        f"type: {name}": model(USES_W, tensor(kind=kind, dims=[2], string_data=[b"a"] * 2))
        for name, kind in KINDS.items()
    },
    **{f"span: {name}": model(USES_W, outside(**span)) for name, span in SPANS.items()},
    **{f"place: {name!r}": model(USES_W, outside(location=name)) for name in PLACES},
    **{f"made: {name}": each for name, each in MADE.items()},
    **{f"nested: {depth}": nested(depth) for depth in (17, 60, 1000, 5000)},
    "cycle": model([node("Add", "x", "b", output="a"), node("Relu", "a", output="b"), node("Relu", "a")]),
    "long way to nothing": model([*RELUS, node("Relu", "nobody")]),
    "names of megabytes": model([node("Relu", "n" * 5_000_000)]),
    "an operator of megabytes": model([node("Relu" * 1_000_000, "x")]),
    "unknown operators": model([node(f"Unknown{i}", "x", output=f"t{i}") for i in range(3000)] + [node("Relu", "x")]),
    "function of itself": model([helper.make_node("a", ["x"], ["y"], domain="own")], functions=[function("a", "a")]),
    "functions of each other": model(
        [helper.make_node("a", ["x"], ["y"], domain="own")], functions=[function("a", "b"), function("b", "a")]
    ),
    "functions that double": model(
        [helper.make_node("f30", ["x"], ["y"], domain="own")],
        functions=[function("f0", "Relu"), *(function(f"f{i}", *[f"f{i - 1}"] * 2) for i in range(1, 31))],
    ),
    "functions in a row": model(
        [helper.make_node("f3000", ["x"], ["y"], domain="own")],
        functions=[function("f0", "Relu"), *(function(f"f{i}", f"f{i - 1}") for i in range(1, 3001))],
    ),
    "an attribute of another type": with_attribute("Concat", "axis", "first"),
    "an attribute twice": model([helper.make_node("Relu", ["x"], ["y"])]),
    "no attribute": model([node("Concat", "x", "x")]),
    "no input": model([node("Conv", "x")]),
    "an input left out": model([node("Conv", "", "x")]),
    "too many inputs": model([node("Relu", "x", "x")]),
    "too many outputs": model([helper.make_node("Relu", ["x"], ["y", "z"])]),
    "no output": model([node("Relu", "x", output="z")]),
    "the same name twice": model([node("Relu", "x"), node("Relu", "x")]),
    "the same initialiser twice": model(USES_W, numbers("w", 1), numbers("w", 1)),
    "an opset of the future that has no such operator": model([node("Relu6", "x")]),
}
ATTACKS["an attribute twice"].graph.node[0].attribute.extend([AttributeProto(name="a", type=AttributeProto.INT)] * 2)

CHILD = """
    import json, resource, sys, time
    from pathlib import Path
    import onnx, onnx.inliner  # noqa
    import convlane

    size = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (size + int(sys.argv[2]),) * 2)
    found = {}
    for path in sorted(Path(sys.argv[1]).glob("*.onnx")):
        start = time.process_time()
        try:
            convlane.load_onnx(path)
            outcome = "loaded"
        except Exception as error:
            outcome = f"{type(error).__name__}: {str(error)[:300]}" + "..." * (len(str(error)) > 20_000)
        found[path.stem] = outcome, time.process_time() - start
    print(json.dumps(found))
"""


def loaded(folder):
    """Load all files of a folder in a process with bounded memory; return the outcomes by name."""
    code = textwrap.dedent(CHILD)
    done = subprocess.run([sys.executable, "-c", code, str(folder), str(MEMORY)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout)


def test_attacks(tmp_path):
    files = tmp_path / "folder"
    (files / "folder").mkdir(parents=True)
    for folder in (tmp_path, files, files / "folder"):
        (folder / "w.bin").write_bytes(bytes(64))
    (files / "link").symlink_to(tmp_path / "w.bin")
    names = list(ATTACKS)
    for i, name in enumerate(names):
        data = ATTACKS[name]
        (files / f"{i}.onnx").write_bytes(data if isinstance(data, bytes) else data.SerializeToString())
    outcomes = {names[int(stem)]: outcome for stem, outcome in loaded(files).items()}
    assert not {name: message for name, (message, _) in outcomes.items() if not message.startswith("LoadError: ")}
    assert not {name: message for name, (message, _) in outcomes.items() if message.endswith("...")}
    assert not {name: seconds for name, (_, seconds) in outcomes.items() if seconds > SECONDS}


def test_truncated(tmp_path, rng):
    """A file that is truncated anywhere is refused: a part of a network is not accepted as a network."""
    weights = {"w": (20, 20), "v": (40, 40), "b": (20,)}
    initializers = [
        numpy_helper.from_array(rng.standard_normal(shape, np.float32), name) for name, shape in weights.items()
    ]
    nodes = [node("Gemm", "x", "w", "b", output="a"), node("Relu", "a")]
    data = model(nodes, *initializers, shape=("N", 20)).SerializeToString()
    ends = sorted({*range(60), *range(len(data) - 60, len(data)), *rng.integers(len(data), size=60).tolist()})
    for end in ends:
        (tmp_path / f"{end}.onnx").write_bytes(data[:end])
    outcomes = loaded(tmp_path)
    assert len(outcomes) == len(ends)
    opsets = len(data) - len(b"".join(field(8, each.SerializeToString()) for each in model([]).opset_import))
    whole = {str(end) for end in ends if end >= opsets}  # which lack only the versions of operators
    assert not {
        end: message
        for end, (message, _) in outcomes.items()
        if not message.startswith("LoadError: ") and end not in whole
    }
    assert max(seconds for _, seconds in outcomes.values()) < 1
