"""Compiled operations on tensors of any rank, compared with the eager ones."""

import numpy as np
import pytest

import convlane
from convlane import _core
from convlane import functional as F
from layouts import LAYOUTS

RNG = np.random.default_rng(20261126)


def normal(*shape):
    return RNG.standard_normal(shape, dtype=np.float32)


VECTOR, MATRIX, CHANNELS, WEIGHT = normal(5), normal(5, 6), normal(3, 1, 1), normal(60, 7)
WHOLE, PLANE, THREE = normal(3, 4, 5), normal(4, 5), normal(3)
STATISTICS = (normal(3), RNG.uniform(0.5, 2, 3).astype(np.float32))
INDEX = np.array([2, 0, 2])


def positive(x):
    return F.affine(F.square(x), 1.0, 0.5)


NETWORKS = {  # on (N, 3, 4, 5)
    "numbers": lambda x: F.sub(2, F.div(1.5, positive(x))),
    "constants": lambda x: F.add(F.mul(x, VECTOR), CHANNELS),
    "constants on the left": lambda x: F.maximum(VECTOR, F.minimum(x, 0.5)),
    "means": lambda x: x - x.mean((2, 3), keepdims=True),
    "a sum that broadcasts and an activation": lambda x: F.add(x, F.amax(x, 3, True), activation="relu"),
    "a product of two and a factor for each row": lambda x: x * F.tanh(x) * F.sum(x, 1, keepdim=True),
    "powers": lambda x: F.pow(positive(x), 0.3) * 2**x,
    "choices": lambda x: F.where(F.logical_and(x > -0.5, F.logical_not(x >= VECTOR)), x, F.where(x == 0, 1, -1)),
    "logic": lambda x: F.where(F.logical_or(x < 0, x > 1), F.exp(x), 0.0),
    "functions": lambda x: F.log(positive(x)) + F.sin(x) * F.erf(x) + F.round(F.clamp(x, -1, 1)),
    "more functions": lambda x: (
        F.sqrt(positive(x)) + F.rsqrt(positive(x)) + F.abs(x) * F.sign(x) + F.log1p(positive(x))
    ),
    "rounding": lambda x: F.floor(x) + F.ceil(x) * F.cos(x) + F.reciprocal(positive(x)) + F.neg(x),
    "reductions": lambda x: F.stack([F.mean(x, (1, 3)), F.amin(x, (1, 3)), F.var(x, (1, 3)), F.prod(x, (1, 3))], 1),
    "all but the batch": lambda x: F.sum(x, (1, 2, 3)),
    "a sum that keeps its dimension": lambda x: F.sum(x, 2, keepdim=True),
    "indices": lambda x: F.gather(x, 2, F.argmax(x, 2, True)),
    "indices of rows": lambda x: F.argmin(x, 3),
    "indices of channels": lambda x: F.argmax(x, 1),
    "comparison": lambda x: x > 0,
    "largest": lambda x: F.topk(x, 2, 3)[0],
    "indices of the largest": lambda x: F.topk_indices(x, 2, 2, False),
    "running sums": lambda x: F.cumsum(x, 2),
    "softmax of rows": lambda x: F.softmax(x, -1),
    "softmax of channels": lambda x: F.log_softmax(x, 1),
    "permute": lambda x: F.permute(x, (0, 3, 1, 2)),
    "permute to five": lambda x: F.permute(F.reshape(x, (1, 3, 2, 2, 5)), (0, 4, 2, 1, 3)),
    "reshape": lambda x: F.reshape(x, (1, 5, -1)),
    "reshape of images": lambda x: F.reshape(x, (1, 5, 4, 3)),
    "reshape of a permuted one": lambda x: F.reshape(F.permute(x, (0, 2, 3, 1)), (1, -1)),
    "new dimensions": lambda x: x[:, None, :, ::2, -1],
    "slices": lambda x: x[:, 1:, ::-2, 1:4],
    "narrow": lambda x: F.narrow(x, 3, 1, 2) * 2,
    "flip": lambda x: F.flip(x, (1, 3)),
    "expand": lambda x: F.expand(F.mean(x, 1, True), (-1, 2, -1, -1)),
    "tile": lambda x: F.tile(x, (1, 2, 1, 3)),
    "cat of rows": lambda x: F.cat([x, F.relu(x), x], 3),
    "cat of matrices": lambda x: F.cat([F.flatten(x), F.flatten(F.exp(x))], 1),
    "stack": lambda x: F.stack([x, F.exp(x)], 2),
    "split": lambda x: F.add(*F.chunk(F.pad(x, (0, 1, 0, 0)), 2, 3)),
    "pad": lambda x: F.pad(x, (1, 2, 0, 3)),
    "unflatten": lambda x: F.unflatten(x, 3, (5, 1)),
    "flatten": lambda x: F.flatten(x, 2),
    "picked": lambda x: F.index_select(x, 2, INDEX),
    "matrices": lambda x: F.matmul(x, MATRIX),
    "a vector": lambda x: F.matmul(x, VECTOR),
    "products of each other": lambda x: F.matmul(x, F.transpose(x, 2, 3)),
    "rows of a matrix": lambda x: F.matmul(F.reshape(x, (1, -1)), WEIGHT),
    "bent": lambda x: F.softplus(F.threshold(F.hardtanh(F.prelu(x, THREE), -1, 0.75), 0.1, -2), 2, 1),
    "gates": lambda x: F.glu(F.glu(F.mul(x, x), 2), -2),
    "activations": lambda x: F.selu(F.gelu(F.celu(F.elu(F.mish(F.softsign(x)), 0.5), 2), approximate="tanh")),
    "layer norm of rows": lambda x: F.layer_norm(x, (5,), VECTOR, VECTOR, 0.1),
    "layer norm of planes": lambda x: F.layer_norm(F.relu(x), (4, 5), PLANE),
    "layer norm of images": lambda x: F.layer_norm(x, (3, 4, 5), WHOLE, WHOLE),
    "layer norm of signals": lambda x: F.layer_norm(F.flatten(x, 2), (20,)),
    "rms norm": lambda x: F.rms_norm(F.rms_norm(x, (3, 4, 5), WHOLE), (5,)),
    "group norm": lambda x: F.group_norm(x, 3, THREE, THREE),
    "group norm of signals": lambda x: F.group_norm(F.flatten(x, 2), 1, THREE),
    "group norm of rows": lambda x: F.group_norm(F.flatten(x), 5),
    "norms of volumes": lambda x: F.layer_norm(
        F.rms_norm(F.group_norm(F.reshape(x, (1, 3, 2, 2, 5)), 3, THREE), (3, 2, 2, 5)), (2, 5)
    ),
    "instance norm": lambda x: F.instance_norm(F.relu(x), weight=THREE, bias=THREE),
    "instance norm of signals": lambda x: F.instance_norm(F.flatten(x, 2)),
    "statistics of instances": lambda x: F.instance_norm(x, *STATISTICS, use_input_stats=False),
    "statistics of signals": lambda x: F.instance_norm(F.flatten(x, 2), *STATISTICS, THREE, THREE, False),
    "unit length": lambda x: F.normalize(F.normalize(x), 1.5, (2, 3)),
    "other norms": lambda x: F.normalize(F.normalize(x, 1, 3), np.inf, -2),
    "attention": lambda x: F.matmul(F.softmax(F.matmul(x, x.transpose(0, 1, 3, 2)) / 2, -1), x),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_compiled_equals_eager(name, isa):
    network = NETWORKS[name]
    plan = convlane.compile(network, (None, 3, 4, 5))
    for batch in (1, 3):
        x = normal(batch, 3, 4, 5)
        single = [np.asarray(network(x[i : i + 1])) for i in range(batch)]
        y = plan(x)
        assert y.dtype == single[0].dtype
        np.testing.assert_allclose(y, np.concatenate(single), rtol=3e-6, atol=3e-6)


@pytest.mark.parametrize("axis", [1, 2])
@pytest.mark.parametrize(
    "network",
    [
        lambda x: F.softmax(x, 1),
        lambda x: F.log_softmax(x, 2),
        lambda x: F.batch_norm(x, np.zeros(x.shape[1], np.float32), np.ones(x.shape[1], np.float32)),
        lambda x: F.local_response_norm(x, 3),
        lambda x: F.relu(x),
        lambda x: F.cumsum(x, 1),
        lambda x: F.mean(x, 3),
        lambda x: F.sum(x, (1, 2)),
        lambda x: F.matmul(x, F.permute(x, (0, 1, 3, 2))),
        lambda x: F.cat([x, x], 1),
        lambda x: F.where(x > 0, x, 0.0),
    ],
)
def test_slices_may_be_empty(network, axis):
    def sliced(x):
        return network(x[:, :0] if axis == 1 else x[:, :, :0])

    x = normal(2, 3, 4, 5)
    np.testing.assert_array_equal(convlane.compile(sliced, x.shape)(x), sliced(x))


@pytest.mark.parametrize(
    "network",
    [
        F.neg,
        lambda x: F.relu(F.mul(F.relu(x), x)),
        lambda x: F.reshape(x, (24, 5)),
        lambda x: F.cat([x, F.sin(x)], 1) * 2,
        lambda x: F.add(F.transpose(x, 1, 2), F.sum(x, (0, 1), keepdim=True)[:, :, :, None][0]),
        lambda x: F.flip(F.cat([x, x], 0), 0),
        lambda x: x,
        lambda x: F.matmul(x, F.transpose(x, 1, 2)),
    ],
)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_inputs_are_read_where_the_caller_has_them(network, layout, isa):
    x = normal(4, 6, 5)
    given = LAYOUTS[layout](x)
    plan = convlane.compile(network, x.shape, whole=True)
    for array in (given, x, given):
        np.testing.assert_array_equal(plan(array), network(x))
        np.testing.assert_array_equal(given, x)


@pytest.mark.parametrize(
    "network",
    [
        lambda x: F.reshape(x, (x.shape[0], 3, 1)),
        lambda x: F.reshape(x, (-1, 3)),
        lambda x: F.add(x, np.ones(x.shape, np.float32)),
        lambda x: F.cat([x, np.zeros((x.shape[0], 2), np.float32)], 1),
        lambda x: F.expand(F.reshape(x, (-1, 1, 3)), (x.shape[0], 2, 3)),
    ],
)
def test_the_batch_may_be_written_into_shapes(network):
    x = normal(4, 3)
    np.testing.assert_array_equal(convlane.compile(network, (None, 3))(x), network(x))


@pytest.mark.parametrize(
    "network",
    [
        lambda x: F.where(np.array(True), x, 2.0),
        lambda x: F.strided_slice(x, 1, 3, 1),
        lambda x: F.index_select(x, 1, np.zeros(0, int)),
        lambda x: F.expand(x, (0, 4, 3)),
    ],
)
def test_plans_with_scalars_and_without_numbers_are_loaded(network, tmp_path):
    x = normal(4, 3)
    convlane.compile(network, x.shape, whole=True).save(tmp_path / "plan")
    np.testing.assert_array_equal(convlane.load_plan(tmp_path / "plan")(x), network(x))


def test_an_input_is_copied_only_where_its_layout_asks_for_it():
    dense = ("float32", (2, 3), (3, 1))
    plan = _core.Plan([dense], [dense], 24, 1)
    plan.stage(0, 0)
    staged, arena, output = (("staged", 0, 0, *dense), ("arena", 0, 0, *dense), ("output", 0, 0, *dense))
    plan.append("copy", [("input", 0, 0, *dense)], [staged])
    plan.append("copy", [arena], [output])  # what has been copied there
    memory, copied = _core.PlanMemory(), np.arange(6, dtype=np.float32).reshape(2, 3)
    memory.limit(1 << 20)
    for array in (np.asfortranarray(copied), 7 + copied):
        result = np.empty((2, 3), np.float32)
        plan.run([array], [result], memory)
        np.testing.assert_array_equal(result, copied)
    plan = _core.Plan([dense], [dense], 24, 1)
    with pytest.raises(ValueError, match="the input is not staged"):
        plan.append("copy", [staged], [output])
    for offset in (-1, 4):
        with pytest.raises(ValueError, match="beyond the arena"):
            plan.stage(0, offset)
    with pytest.raises(ValueError, match="there is no such input"):
        plan.stage(1, 0)
    plan.stage(0, 0)
    with pytest.raises(ValueError, match="a staged input can only be copied to"):
        plan.append("unary", [staged], [staged], {"function": "neg"})


@pytest.mark.parametrize(
    ("op", "attributes"),
    [("cumsum", {"axis": 1}), ("softmax_along", {"axis": 1, "log": False}), ("matmul", {}), ("copy", {})],
)
@pytest.mark.parametrize("wrong", ["input", "output"])
def test_steps_refuse_other_types(op, attributes, wrong):
    plan = _core.Plan([], [], 4096, 1)
    strides = [4, 1]
    source, result = (("bool" if wrong == which else "float32") for which in ("input", "output"))
    inputs = [("arena", 0, 0, source, [4, 4], strides)] * (2 if op == "matmul" else 1)
    with pytest.raises(ValueError, match=f"plan: {op}: .*(type|float32)"):
        plan.append(op, inputs, [("arena", 0, 1024, result, [4, 4], strides)], attributes, {})


def test_plans_refuse_negative_sizes():
    plan = _core.Plan([], [], 64, 1)
    operand = ("arena", 0, 0, "float32", [-4, -4], [4, 1])
    with pytest.raises(ValueError, match="a size is negative"):
        plan.append("copy", [operand], [operand], {}, {})


def test_threads_do_not_change_bits():
    x = normal(2, 3, 40, 50)
    network = NETWORKS["attention"]
    plan = convlane.compile(lambda x: network(F.mean(x, 3, True) + x * VECTOR[0]), (2, 3, 40, 50))
    with convlane.num_threads(1):
        whole = plan(x)
    with convlane.num_threads(3):
        np.testing.assert_array_equal(plan(x), whole)


def test_plans_keep_constants_in_files(tmp_path):
    plan = convlane.compile(NETWORKS["choices"], (None, 3, 4, 5))
    plan.save(tmp_path / "plan.safetensors")
    x = normal(2, 3, 4, 5)
    np.testing.assert_array_equal(convlane.load_plan(tmp_path / "plan.safetensors")(x), plan(x))


@pytest.mark.parametrize(
    ("network", "reason"),
    [
        (lambda x: F.sum(x), "sum along the batch"),
        (lambda x: F.mean(x, (0, 2)), "mean along the batch"),
        (lambda x: F.argmax(x), "argmax along the batch"),
        (lambda x: F.permute(x, (1, 0, 2, 3)), "permute of the batch"),
        (lambda x: F.reshape(x, (-1, 5)), "reshape of the batch"),
        (lambda x: F.cat([x, x], 0), "cat along the batch"),
        (lambda x: F.flip(x, 0), "flip along the batch"),
        (lambda x: F.tile(x, (2, 1, 1, 1)), "tile of the batch"),
        (lambda x: F.expand(x, (2, -1, -1, -1, -1)), "expand of the batch"),
        (lambda x: F.index_select(x, 0, np.array([0])), "index_select along the batch"),
        (lambda x: F.softmax(x, 0), "softmax along the batch"),
        (lambda x: F.cumsum(x, 0), "cumsum along the batch"),
        (lambda x: F.add(x, F.mean(x, 1)), "add of shapes whose batches do not broadcast"),
        (lambda x: F.mul(x, np.ones((2, 3, 4, 5), np.float32)), "mul of shapes whose batches do not broadcast"),
        (
            lambda x: F.matmul(F.mean(x, 1), F.permute(x, (0, 1, 3, 2))),
            "matmul of stacks whose batches do not broadcast",
        ),
    ],
)
def test_what_mixes_the_batch_is_refused(network, reason):
    with pytest.raises(ValueError, match=reason):
        convlane.compile(network, (1, 3, 4, 5))
