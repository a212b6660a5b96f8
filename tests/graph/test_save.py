"""Saved plans: the contents of the file, and that no file does harm."""

import contextlib
import json
import os
import resource
import time

import hypothesis.strategies as st
import numpy as np
import pytest
import safetensors
from hypothesis import HealthCheck, given, settings

import convlane
from convlane import functional as F
from convlane import models, nn
from convlane.graph import passes
from convlane.graph.arena import assign_slots
from convlane.graph.trace import trace
from convlane.graph.verify import verify
from convlane.safetensors_file import open_tensors, write_tensors


class Everything(nn.Module):
    """A small network with every kind of node that a plan keeps."""

    def __init__(self):
        nn.init.seed(3)
        self.stem = nn.Sequential(nn.Conv2d(3, 4, 3, stride=2, padding="same_tf"), nn.BatchNorm2d(4), nn.SiLU())
        self.expand, self.depthwise = nn.Conv2d(4, 8, 1), nn.Conv2d(8, 8, 3, padding=1, groups=8)
        self.project, self.norm = nn.Conv2d(8, 4, 1), nn.BatchNorm2d(4)
        self.gate, self.last, self.peak = nn.Linear(4, 4), nn.Linear(8 * 2 * 2, 5), nn.Linear(4, 5)
        self.top = nn.Conv2d(4, 4, 3, padding=1)

    def forward(self, x):
        x = self.stem(x)
        x = F.add(x, self.project(F.relu6(self.depthwise(F.relu6(self.expand(x))))))
        x = self.norm(F.local_response_norm(F.leaky_relu(x, 0.2), 3))
        x = F.scale(x, F.sigmoid(self.gate(F.flatten(F.global_avg_pool2d(x)))))
        pooled = F.add(F.avg_pool2d(x, 3, 1, 1), F.mul(x, F.adaptive_max_pool2d(x, 1)), activation="relu")
        x = F.max_pool2d(F.cat([pooled, x]), 2, (2, 1), (1, 0, 0, 0))
        scores = self.last(F.flatten(F.adaptive_avg_pool2d(x, (2, 2))))
        top = F.max_pool2d(F.relu(self.top(pooled)), 2)
        return F.log_softmax(F.add(scores, self.peak(F.flatten(F.global_max_pool2d(top)))), 1)


PLAN = convlane.compile(Everything().eval(), (None, 3, 9, 8))
IMAGES = np.random.default_rng(1).standard_normal((2, 3, 9, 8), np.float32)


@pytest.fixture
def path(tmp_path):
    """A saved plan of all kinds of nodes."""
    PLAN.save(tmp_path / "plan")
    return tmp_path / "plan"


def contents(path):
    """Return the arrays, the metadata, and the plan in the metadata as an object."""
    with open_tensors(path) as file:
        return {name: file.read(name) for name in file.tensors}, file.metadata, json.loads(file.metadata["plan"])


def change(path, edit):
    """Apply `edit` to the plan's object and the arrays of a file."""
    tensors, metadata, plan = contents(path)
    edit(plan, tensors)
    write_tensors(path, tensors, {**metadata, "plan": json.dumps(plan)})


def find(plan, op):
    """Return the first node of an operation."""
    return next(node for node in plan["nodes"] if node["op"] == op)


def test_other_readers_of_the_format_find_the_weights(path):
    with safetensors.safe_open(path, "numpy") as file:
        assert file.metadata()["format"] == "convlane plan"
        assert file.metadata()["convlane_version"] == convlane.__version__
        gate = find(json.loads(file.metadata()["plan"]), "linear")
        weight, bias = (file.get_tensor(gate["attributes"][name]["tensor"]) for name in ("weight", "bias"))
    layer = Everything().gate
    np.testing.assert_array_equal(weight, layer.weight, strict=True)
    np.testing.assert_array_equal(bias, layer.bias, strict=True)


def test_a_saved_plan_is_saved_as_it_is(path, tmp_path):
    convlane.load_plan(path).save(tmp_path / "again")
    assert (tmp_path / "again").read_bytes() == path.read_bytes()


def test_files_are_as_large_as_the_weights(path):
    tensors, metadata, _ = contents(path)
    assert path.stat().st_size < sum(array.nbytes for array in tensors.values()) + len(metadata["plan"]) * 2 + 8192


def test_arguments_of_numpy_types_are_saved(tmp_path, rng):
    weight, x = rng.standard_normal((4, 3, 1, 1), np.float32), rng.standard_normal((1, 3, 4, 4), np.float32)

    def network(x):
        x = F.conv2d(x, weight, stride=[np.int64(2), 1], negative_slope=np.float32(0.1))
        return F.batch_norm(
            F.softmax(x, np.int8(1)), weight[:, 0, 0, 0], np.ones(4, np.float32), eps=np.array(1e-3, np.float32)
        )

    plan = convlane.compile(network, (1, 3, 4, 4))
    plan.save(tmp_path / "plan")
    np.testing.assert_array_equal(convlane.load_plan(tmp_path / "plan")(x), plan(x))


def test_what_cannot_be_read_is_not_written(tmp_path):
    mean = np.ones(3, np.float32)
    plan = convlane.compile(lambda x: F.batch_norm(F.relu(x), mean, mean, momentum=None), (1, 3, 4, 4))
    with pytest.raises(TypeError, match="batch_norm: momentum is of the wrong type"):
        plan.save(tmp_path / "plan")
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("name", models.list())
def test_checks_agree_with_tracing(name):
    with nn.init.skip():
        graph = trace(models.create(name, 7).eval(), (1, *models.input_shape(name)))
    seen = None
    for optimization in (*passes.PASSES, assign_slots):
        if graph is not seen:  # many passes change nothing
            checked = verify(graph)
            assert str(checked) == str(graph)
            assert [node.multiply_adds for node in checked.nodes.values()] == [
                node.multiply_adds for node in graph.nodes.values()
            ]
        seen, graph = graph, optimization(graph)


def set_in(op, *keys):
    """Return an edit that sets one entry below the first node of an operation: keys, and then the value."""

    def edit(plan, tensors):
        place = find(plan, op) if op else plan
        for key in keys[:-2]:
            place = place[key]
        place[keys[-2]] = keys[-1]

    return edit


def remove(op, *keys):
    def edit(plan, tensors):
        place = find(plan, op) if op else plan
        for key in keys[:-1]:
            place = place[key]
        del place[keys[-1]]

    return edit


def swap_tensors(plan, tensors):
    first, second = (find(plan, op)["attributes"]["weight"] for op in ("conv2d", "linear"))
    first["tensor"], second["tensor"] = second["tensor"], first["tensor"]


def cast_tensor(plan, tensors):
    name = find(plan, "linear")["attributes"]["weight"]["tensor"]
    tensors[name] = tensors[name].astype(np.float64)


def shrink_bias(plan, tensors):
    name = find(plan, "linear")["attributes"]["bias"]["tensor"]
    tensors[name] = tensors[name][1:]


def add_tensor(plan, tensors):
    tensors["more"] = np.ones(3, np.float32)


def share_tensor(plan, tensors):
    attributes = find(plan, "batch_norm")["attributes"]
    attributes["weight"] = attributes["bias"]


def part_with_parts(plan, tensors):
    block = find(plan, "depthwise_block")
    block["attributes"]["parts"]["parts"][0]["attributes"]["bias"] = {"parts": []}


def without_project(plan, tensors):
    block = find(plan, "depthwise_block")
    del block["inputs"]["residual"]
    parts = block["attributes"]["parts"]["parts"]
    for name in ("weight", "bias"):
        del tensors[parts[-1]["attributes"][name]["tensor"]]
    del parts[-1]


def stride_of_expand(plan, tensors):
    part = find(plan, "depthwise_block")["attributes"]["parts"]["parts"][0]
    part["attributes"]["stride"] = 2
    part["shape"] = [1, 8, 3, 2]


def measured(seconds, chosen):
    return {"chosen": chosen, "expected": "stem", "seconds": {"stem": seconds}}


def without_pooling(plan, tensors):
    del find(plan, "conv2d_pool")["attributes"]["parts"]["parts"][1]


CHANGES = {
    "empty plan": (lambda plan, tensors: plan.clear(), "the plan: 'nodes' is missing"),
    "more in the plan": (set_in(None, "more", 1), "the plan: 'more' is unknown"),
    "no nodes": (set_in(None, "nodes", []), "the output 'output' is the value"),
    "nodes of another type": (set_in(None, "nodes", {}), "the plan: nodes is of the wrong type"),
    "a node that is none": (set_in(None, "nodes", 3, 7), "node 3 must be an object with"),
    "no input": (remove(None, "nodes", 0), "node 0 must be an input"),
    "input of another batch": (
        set_in("input", "shape", [2, 3, 9, 8]),
        "node 0 is an input and must have the shape of a batch of one",
    ),
    "empty input": (set_in("input", "shape", [1, 0, 9, 8]), "shape must be at least 1"),
    "larger input": (set_in("input", "shape", [1, 3, 90, 8]), "conv2d: its result has the shape"),
    "huge input": (set_in("input", "shape", [1, 3, 2**61, 2**61]), "product overflows"),
    "shape of text": (
        set_in("cat", "shape", [1, "8", 5, 4]),
        "not a valid plan: node 13: shape must be an integer, got '8'",
    ),
    "shape that does not follow": (
        set_in("cat", "shape", [1, 9, 5, 4]),
        r"cat: its result has the shape \(1, 8, 5, 4\)",
    ),
    "another type": (set_in("cat", "dtype", "int64"), "cat: its result is of the type float32, not int64"),
    "unknown type": (set_in("cat", "dtype", "float64"), "must be float32, int64 or bool, got 'float64'"),
    "results of one": (set_in("cat", "results", [[[1], "bool"], [[1], "bool"]]), "cat: it has 1 results"),
    "results that are none": (set_in("cat", "results", [3]), "a result must be a shape and a type, got 3"),
    "flat shape": (set_in("cat", "shape", [1, 160]), "cat: its result has the shape"),
    "output beyond": (set_in(None, "outputs", "output", 99), "the output 'output' is the value 99"),
    "output before": (set_in(None, "outputs", "output", -1), "the output 'output' is the value -1"),
    "output of another type": (set_in(None, "outputs", "output", True), "an output must be a value"),
    "outputs of another type": (set_in(None, "outputs", [1]), "outputs is of the wrong type"),
    "no output": (set_in(None, "outputs", {}), "it must return"),
    "returns something else": (set_in(None, "returns", "list"), "an array, a tuple or a dict, not 'list'"),
    "returns several as one": (set_in(None, "outputs", {"a": 1, "b": 2}), "2 outputs are not an array"),
    "unknown operation": (set_in("cat", "op", "eval"), "there is no operation 'eval'"),
    "function that is none": (set_in("cat", "op", "explain"), "there is no operation 'explain'"),
    "another operation": (set_in("cat", "op", "pad"), "pad: 'dim' is not an argument of it"),
    "operation of another type": (set_in("cat", "op", 5), "op is of the wrong type"),
    "second input": (set_in("cat", "op", "input"), "they must map names to values"),
    "no inputs": (set_in("cat", "inputs", {}), "node 13 has the inputs {}"),
    "input of text": (set_in("cat", "inputs", "tensors[0]", "7"), "node 13 has the inputs"),
    "itself as input": (
        set_in("cat", "inputs", "tensors[0]", 13),
        "cat: it reads the value 13 before that is computed",
    ),
    "later input": (set_in("cat", "inputs", "tensors[0]", 14), "cat: it reads the value 14 before that is computed"),
    "negative input": (set_in("cat", "inputs", "tensors[0]", -1), "cat: it reads the value -1 before that is computed"),
    "unknown input": (set_in("cat", "inputs", "more", 2), "cat: 'more' is not an argument of it"),
    "inputs out of order": (
        set_in("cat", "inputs", {"tensors[1]": 1, "tensors[0]": 2}),
        r"'tensors\[1\]' is out of order",
    ),
    "list where one is read": (
        set_in("scale", "inputs", {"input[0]": 1, "scale": 2}),
        "scale: input is of the wrong type",
    ),
    "one where a list is read": (set_in("cat", "inputs", {"tensors": 1}), "cat: tensors is of the wrong type"),
    "computed number": (set_in("max_pool2d", "inputs", "stride", 1), "max_pool2d: stride is of the wrong type"),
    "missing argument": (remove("conv2d", "attributes", "stride"), "conv2d: 'stride' is missing"),
    "unknown argument": (set_in("conv2d", "attributes", "strides", 1), "conv2d: 'strides' is not an argument of it"),
    "stride of text": (set_in("conv2d", "attributes", "stride", "2"), "conv2d: stride is of the wrong type"),
    "stride of floats": (set_in("conv2d", "attributes", "stride", [2.0, 2.0]), "conv2d: stride is of the wrong type"),
    "stride of three": (set_in("conv2d", "attributes", "stride", [2, 2, 2]), "conv2d: stride is of the wrong type"),
    "no stride": (set_in("conv2d", "attributes", "stride", 0), "stride"),
    "large stride": (set_in("conv2d", "attributes", "stride", 2**63), "stride is out of range"),
    "nested list": (set_in("conv2d", "attributes", "stride", [[1]]), r"must not be or hold \[1\]"),
    "object": (set_in("conv2d", "attributes", "stride", {"a": 1}), "must be a number, text, null"),
    "large kernel": (set_in("avg_pool2d", "attributes", "kernel_size", 2**40), "node 9: avg_pool2d"),
    "padding of no name": (set_in("conv2d", "attributes", "padding", "wide"), "padding must be 'same'"),
    "activation of no name": (set_in("conv2d", "attributes", "activation", "eval"), "activation"),
    "algorithm of no name": (set_in("conv2d", "attributes", "algorithm", "best"), "algorithm"),
    "slope of text": (set_in("add", "attributes", "negative_slope", "1"), "add: negative_slope is of the wrong type"),
    "missing tensor": (
        set_in("conv2d", "attributes", "weight", {"tensor": "x"}),
        "is the tensor 'x', which is missing",
    ),
    "tensor of no name": (set_in("conv2d", "attributes", "weight", {"tensor": 1}), "is the tensor 1, which is missing"),
    "number for a tensor": (set_in("conv2d", "attributes", "weight", 1), "conv2d: weight is of the wrong type"),
    "nothing for a tensor": (set_in("conv2d", "attributes", "weight", None), "conv2d: weight is of the wrong type"),
    "tensor of another type": (cast_tensor, r"weight must be float32 \(F32\), got F64"),
    "tensors exchanged": (swap_tensors, "must have 4 dimensions"),
    "small tensor": (shrink_bias, r"linear: bias must have shape \(4,\)"),
    "tensor of nobody": (add_tensor, "no node has the tensor 'more'"),
    "tensor of two": (share_tensor, "which is used twice"),
    "unused tensor": (remove("conv2d", "attributes", "bias"), "no node has the tensor|'bias' is missing"),
    "no part": (set_in("depthwise_block", "attributes", "parts", []), "it must have parts|no node has the tensor"),
    "parts that are text": (set_in("conv2d_pool", "attributes", "parts", "relu"), "conv2d_pool: it must have parts"),
    "parts that are numbers": (set_in("conv2d_pool", "attributes", "parts", [1, 2]), "conv2d_pool: it must have parts"),
    "part with parts": (part_with_parts, "parts cannot have parts"),
    "last part missing": (without_project, "its parts cannot be joined"),
    "first part with a stride": (stride_of_expand, "depthwise_block: its parts cannot be joined|result has the shape"),
    "block without input": (set_in("depthwise_block", "inputs", {"residual": 1}), "it must have parts, an input"),
    "pooling missing": (without_pooling, "conv2d_pool: its parts cannot be joined"),
    "pooling that cannot be joined": (
        set_in("conv2d_pool", "attributes", "parts", "parts", 1, "attributes", "return_indices", True),
        "max_pool2d: it has 2 results",
    ),
    "pooling and residual": (
        set_in("conv2d_pool", "inputs", {"input": 1, "residual": 1}),
        "max_pool2d: 'residual' is not an argument",
    ),
    "fused numbers": (set_in("conv2d", "fused", [1]), "fused must be names"),
    "measured numbers": (set_in("conv2d", "measured", [1]), "node 1: measured is of the wrong type"),
    "measured without times": (set_in("conv2d", "measured", {"chosen": "stem"}), "measured: 'expected' is missing"),
    "measured something else": (set_in("conv2d", "measured", measured(1.0, "direct")), "have the times of what was"),
    "measured no time": (set_in("conv2d", "measured", measured("1.0", "stem")), "have the times of what was"),
    "no options": (set_in(None, "options", {}), "its options must be batch and winograd"),
    "batch of text": (set_in(None, "options", "batch", "1"), "batch must be an integer, got '1'"),
    "empty batch": (set_in(None, "options", "batch", 0), "batch must be at least 1"),
    "winograd of text": (set_in(None, "options", "winograd", "yes"), "winograd, which is true or false"),
}


@pytest.mark.parametrize("name", CHANGES)
def test_changed_plans_are_refused(name, path):
    edit, message = CHANGES[name]
    change(path, edit)
    with pytest.raises(ValueError, match=message) as error:
        convlane.load_plan(path)
    assert str(error.value).startswith(f"{path}: not a valid plan: ")


@pytest.mark.parametrize(
    ("metadata", "message"),
    [
        ({}, "its metadata do not say that it is one"),
        ({"format": "pt"}, "its metadata do not say that it is one"),
        (
            {"format_version": "3", "convlane_version": "9.1"},
            "the format '3' of convlane '9.1', but this convlane reads 2",
        ),
        (
            {"format_version": "1", "convlane_version": "0.1"},
            "the format '1' of convlane '0.1', but this convlane reads 2",
        ),
        ({"format_version": "-1"}, "the format '-1'"),
        ({"format_version": "1.0"}, r"the format '1\.0'"),
        ({"plan": "[]"}, "the plan must be an object"),
        ({"plan": "{"}, "line 1 column 2"),
        ({"plan": '{"nodes": NaN}'}, "NaN is not a number"),
        ({"plan": "[" * 10**5}, "too many nested brackets"),
        ({"plan": '{"nodes": 1, "nodes": 2}'}, "the key 'nodes' occurs twice"),
    ],
)
def test_other_metadata_are_refused(metadata, message, path):
    tensors, before, _ = contents(path)
    write_tensors(path, tensors, {**before, **metadata} if metadata else {})
    with pytest.raises(ValueError, match=message):
        convlane.load_plan(path)


def test_operations_that_plans_cannot_do_are_named(tmp_path, path):
    def add_nodes(plan, tensors):
        shape = plan["nodes"][plan["outputs"]["output"]]["shape"]
        for op, attributes in (("softmax", {"dim": 0}), ("dropout", {"p": 0.5, "training": True, "rng": None})):
            inputs = {"input": len(plan["nodes"]) - 1}
            node = {"op": op, "inputs": inputs, "attributes": attributes, "shape": shape}
            plan["nodes"].append({**node, "dtype": "float32", "results": [], "fused": [], "measured": {}})
        plan["outputs"]["output"] = len(plan["nodes"]) - 1

    change(path, add_nodes)
    with pytest.raises(ValueError, match="cannot compute: softmax along the batch; dropout in training"):
        convlane.load_plan(path)


def test_every_truncation_is_refused(path):
    content = path.read_bytes()
    for length in range(0, len(content), 7):
        path.write_bytes(content[:length])
        with pytest.raises(ValueError, match="not a valid safetensors file"):
            convlane.load_plan(path)


@pytest.mark.parametrize(
    ("change_open", "message"),
    [
        (lambda given: given.pop("known"), "'known' is missing"),
        (lambda given: given.update(named=1), "named is of the wrong type"),
        (lambda given: given.update(seen=[[99, 0]]), "no value has the size"),
        (lambda given: given.update(seen=[[0, 9]]), "no value has the size"),
        (lambda given: given.update(seen=["ab"]), "got {'size': 'ab'}"),
        (lambda given: given.update(shapes={"input": [None, 4, None, None]}), "but those of the inputs"),
        (lambda given: given.update(shapes={"input": [None, 3, None]}), "but those of the inputs"),
        (lambda given: given.update(shapes={"input": [2, 3, None, None]}), "but those of the inputs"),
        (lambda given: given.update(shapes={"other": [None, 3, None, None]}), "but those of the inputs"),
        (lambda given: given.update(shapes={"input": 3}), "must be a list of sizes"),
        (lambda given: given.update(shapes={"input": [None, 3, 0, None]}), "at least 1"),
    ],
)
def test_changed_plans_of_open_size_are_refused(change_open, message, tmp_path):
    path = tmp_path / "plan"
    convlane.compile(nn.Conv2d(3, 2, 3).eval(), (None, 3, None, None)).save(path)
    change(path, lambda plan, tensors: change_open(plan["options"]["open"]))
    with pytest.raises(ValueError, match=message):
        convlane.load_plan(path)


def test_a_plan_of_open_size_checks_each_new_size(tmp_path):
    path = tmp_path / "plan"
    convlane.compile(nn.Conv2d(3, 2, 3).eval(), (None, 3, None, None)).save(path)
    change(path, lambda plan, tensors: plan["options"]["open"].update(seen=[[1, 3]]))
    plan = convlane.load_plan(path)
    with pytest.raises(ValueError, match=r"may behave differently than was saved for \(1, 3, 8, 8\)"):
        plan(np.zeros((3, 8, 8), np.float32))
    change(
        path,
        lambda plan, tensors: (
            plan["nodes"].append(
                {**plan["nodes"][-1], "op": "softmax", "inputs": {"input": 1}, "attributes": {"dim": 0}}
            )
            or plan["outputs"].update(output=2)
            or plan["options"]["open"].update(seen=[])
        ),
    )
    with pytest.raises(ValueError, match="softmax along the batch"):
        convlane.load_plan(path)(np.zeros((3, 8, 8), np.float32))


CHEAP = {
    "chain": lambda i: ("relu", {"input": i}),
    "many that live": lambda i: ("add", {"input": max(i // 2, 0), "other": i}),
    "many outputs": lambda i: ("relu", {"input": 0}),
    "views": lambda i: ("reshape", {"input": max(i, 1)}),
}


@pytest.mark.parametrize("name", CHEAP)
def test_many_nodes_are_read_in_linear_time(name, tmp_path):
    """With up to the largest number of nodes in a file, time and memory grow linearly."""
    few, many = plan_of_nodes(tmp_path / "few", name, 1_100), plan_of_nodes(tmp_path / "many", name, 11_000)
    few_seconds = min(seconds_to_load(few) for _ in range(3))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    many_seconds = seconds_to_load(many)
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) << 10
    assert many_seconds < 40 * few_seconds  # ten times the nodes; quadratic time would be a hundred
    assert grown < max(64 << 20, 20 * many.stat().st_size)


def plan_of_nodes(path, name, count):
    """Write a file with `count` nodes of one of the CHEAP patterns."""
    convlane.compile(lambda x: F.reshape(F.relu(x), (1, 8)), (1, 8)).save(path)

    def edit(plan, tensors):
        plan["nodes"] = plan["nodes"][:1]
        attributes = {"add": {"activation": "none", "negative_slope": 0.01}, "reshape": {"shape": [1, 8]}}
        for i in range(count):
            op, inputs = CHEAP[name](i) if i else ("relu", {"input": 0})
            plan["nodes"].append({**RECORD, "op": op, "inputs": inputs, "attributes": attributes.get(op, {})})
        plan["outputs"] = {"output": count}
        if name in ("many outputs", "views"):
            plan["outputs"], plan["returns"] = {str(i): i for i in range(1, count)}, "dict"

    change(path, edit)
    return path


def seconds_to_load(path):
    """Return this thread's own time, without that of threads that other tests have left running."""
    start = time.thread_time()
    convlane.load_plan(path)
    return time.thread_time() - start


RECORD = {"shape": [1, 8], "dtype": "float32", "results": [], "fused": [], "measured": {}}


def test_missing_files(tmp_path):
    with pytest.raises(FileNotFoundError):
        convlane.load_plan(tmp_path / "missing")


def works_or_is_refused(path):
    """Load a damaged plan and, if that is possible, run it; only a ValueError may be raised."""
    with contextlib.suppress(ValueError):
        plan = convlane.load_plan(path)
        _, *shape = plan.input_shape
        if plan.arena_bytes < 2**24 and plan.multiply_adds < 2**24 and np.prod(shape) < 2**20:
            batch = plan.input_shape[0] or 2
            if batch < 9:
                assert plan(np.ones((batch, *shape), np.float32)).shape == (batch, *plan.output_shape[1:])


FUZZ = settings(deadline=None, max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture])


@FUZZ
@given(changes=st.lists(st.tuples(st.integers(0, 2**20), st.integers(0, 255)), min_size=1, max_size=3))
def test_changed_bytes_are_refused_or_work(path, changes):
    PLAN.save(path)
    content = bytearray(path.read_bytes())
    for place, byte in changes:
        content[place % len(content)] = byte
    path.write_bytes(content)
    works_or_is_refused(path)


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-3, 9)
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.sampled_from(["", "relu", "same", "winograd4", "direct", "im2col", "input", "tensors[0]", "linear", "add"])
    | st.builds(lambda i: {"tensor": f"{i}.weight"}, st.integers(0, 20)),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(["tensor", "parts", "op"]), inner),
    max_leaves=4,
)


def paths_in(value, where=()):
    """Yield all paths into an object of lists and dicts."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in items:
        yield (*where, key)
        yield from paths_in(inner, (*where, key))


@FUZZ
@given(data=st.data())
def test_changed_values_are_refused_or_work(path, data):
    PLAN.save(path)

    def edit(plan, tensors):
        for _ in range(data.draw(st.integers(1, 2))):
            *outer, last = data.draw(st.sampled_from(list(paths_in(plan))))
            place = plan
            for key in outer:
                place = place[key]
            what = data.draw(st.sampled_from(["set", "set", "set", "remove", "copy"]))
            if what == "remove":
                del place[last]
            elif what == "copy":
                *source, final = data.draw(st.sampled_from(list(paths_in(plan))))
                value = plan
                for key in (*source, final):
                    value = value[key]
                place[last] = json.loads(json.dumps(value))
            else:
                place[last] = data.draw(JSON)

    change(path, edit)
    works_or_is_refused(path)
