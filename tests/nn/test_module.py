"""The module tree: registration, state dicts, modes, copies, text."""

import copy
import pickle
import threading

import numpy as np
import pytest

from convlane import _core, nn


class Block(nn.Module):
    def __init__(self):
        self.conv = nn.Conv2d(3, 4, 3, padding=1)
        self.norm = nn.BatchNorm2d(4)
        self.tail = nn.Sequential(nn.ReLU(), nn.Conv2d(4, 2, 1, bias=False))

    def forward(self, input):
        return self.tail(self.norm(self.conv(input)))


PARAMETERS = ["conv.weight", "conv.bias", "norm.weight", "norm.bias", "tail.1.weight"]
BUFFERS = ["norm.running_mean", "norm.running_var", "norm.num_batches_tracked"]


@pytest.fixture
def image(rng):
    return rng.standard_normal((2, 3, 6, 5), np.float32)


def random_state(module, rng):
    """Return a state dict that fits the module, with arrays that all differ from the initial ones."""
    state = module.state_dict()
    return {k: np.array(3) if v.ndim == 0 else rng.uniform(1, 2, v.shape).astype(np.float32) for k, v in state.items()}


def assert_state(module, expected):
    state = module.state_dict()
    assert state.keys() == expected.keys()
    for key, array in state.items():
        np.testing.assert_array_equal(array, expected[key], err_msg=key)


def test_tree_in_order_of_assignment():
    block = Block()
    assert [name for name, _ in block.named_modules()] == ["", "conv", "norm", "tail", "tail.0", "tail.1"]
    assert [name for name, _ in block.named_children()] == ["conv", "norm", "tail"]
    assert list(block.children()) == [block.conv, block.norm, block.tail]
    assert [name for name, _ in block.named_parameters()] == PARAMETERS
    assert list(block.state_dict()) == PARAMETERS[:4] + BUFFERS + PARAMETERS[4:]
    assert len(list(block.parameters())) == 5
    assert block.num_parameters() == 4 * 3 * 9 + 4 + 4 + 4 + 8


def test_replacing_and_removing_children():
    block = Block()
    block.norm = nn.Identity()
    assert [name for name, _ in block.named_children()] == ["conv", "norm", "tail"]
    with pytest.raises(TypeError, match=r"Block\.conv is a module and cannot become a function"):
        block.conv = lambda input: input
    block.norm = None
    del block.tail
    assert list(block.state_dict()) == ["conv.weight", "conv.bias"]
    block.conv.bias = None
    assert list(block.state_dict()) == ["conv.weight"]
    assert not hasattr(block, "tail")


def test_a_module_under_two_names_is_one():
    layer = nn.Linear(2, 2)
    network = nn.Sequential(layer, nn.ReLU(), layer)
    assert network.num_parameters() == 6
    assert [name for name, _ in network.named_modules()] == ["", "0", "1"]
    assert list(network.state_dict()) == ["0.weight", "0.bias", "2.weight", "2.bias"]  # as in torch


def test_modes_and_apply():
    block = Block()
    assert block.training
    assert block.eval() is block
    assert not any(module.training for module in block.modules())
    assert block.train() is block
    assert all(module.training for module in block.modules())
    seen = []
    assert block.apply(seen.append) is block
    assert seen[:2] == [block.conv, block.norm]
    assert seen[-1] is block


def test_parameters_are_read_only_and_replaced_whole(rng):
    layer = nn.Linear(3, 2)
    with pytest.raises(ValueError, match="read-only"):
        layer.weight[0, 0] = 1
    new = rng.standard_normal((2, 3))
    layer.weight = new
    assert layer.weight.dtype == np.float32
    expected = new.astype(np.float32)
    new[:] = 0
    np.testing.assert_array_equal(layer.weight, expected)
    before = layer.weight
    with pytest.raises(ValueError, match=r"Linear\.weight: expected shape \(2, 3\), got \(3, 2\)"):
        layer.weight = new.T
    with pytest.raises(TypeError, match=r"Linear\.weight: expected an array, got list"):
        layer.weight = [[1.0] * 3] * 2
    with pytest.raises(TypeError, match=r"Linear\.weight: expected floating-point numbers, got int64"):
        layer.weight = np.ones((2, 3), np.int64)
    assert layer.weight is before


def test_views_of_read_only_memory_are_copied():
    memory = np.ones((2, 3), np.float32)
    view = memory[:]
    view.flags.writeable = False
    layer = nn.Linear(3, 2)
    layer.weight = view
    memory[:] = 2
    assert (layer.weight == 1).all()


def test_a_new_weight_is_used_at_once(rng, isa):
    image = rng.standard_normal((1, 2, 3, 3), np.float32)
    conv, linear = nn.Conv2d(2, 2, 1, bias=False), nn.Linear(3, 2, bias=False)
    for _ in range(2):
        conv.weight = rng.standard_normal(conv.weight.shape)
        linear.weight = rng.standard_normal(linear.weight.shape)
        expected = np.einsum("oi,nihw->nohw", conv.weight[:, :, 0, 0], image)
        np.testing.assert_allclose(conv(image), expected, rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(linear(image), image @ linear.weight.T, rtol=1e-5, atol=1e-6)


def test_changing_the_instruction_set_packs_anew(rng):
    image = rng.standard_normal((1, 3, 9, 9), np.float32)
    conv = nn.Conv2d(3, 40, 3)
    before = _core.active_isa()
    try:
        for name in [*_core.supported_isas(), before]:
            _core.set_active_isa(name)
            fresh = nn.Conv2d(3, 40, 3)
            fresh.load_state_dict(conv.state_dict())
            np.testing.assert_array_equal(conv(image), fresh(image))
    finally:
        _core.set_active_isa(before)


@pytest.mark.parametrize("name", ["", "a.b", 3])
def test_register_refuses_bad_names(name):
    with pytest.raises(ValueError, match="non-empty string without dots"):
        nn.Module().register_parameter(name, np.zeros(1, np.float32))


@pytest.mark.parametrize("name", ["weight", "forward"])
def test_register_refuses_taken_names(name):
    with pytest.raises(ValueError, match=f"Linear already has an attribute '{name}'"):
        nn.Linear(1, 1).register_buffer(name, np.zeros(1, np.float32))


def test_register_accepts_only_arrays():
    module = nn.Module()
    with pytest.raises(TypeError, match=r"Module\.scale: expected an array, got float"):
        module.register_parameter("scale", 1.0)
    assert module.state_dict() == {}


def test_state_dict_round_trip(rng):
    first, second = Block(), Block()
    state = random_state(first, rng)
    assert first.load_state_dict(state) == ([], [])
    assert_state(first, state)
    second.load_state_dict(first.state_dict())
    assert_state(second, state)
    tracked = second.state_dict()["norm.num_batches_tracked"]
    assert (tracked.dtype, tracked.shape) == (np.int64, ())


def test_state_dict_is_a_snapshot(rng, image):
    block = Block()
    state = block.state_dict()
    before = {key: array.copy() for key, array in state.items()}
    block(image)  # in training mode, which changes the running statistics
    block.conv.weight = rng.standard_normal(block.conv.weight.shape)
    assert block.state_dict()["norm.num_batches_tracked"] == 1
    assert (block.norm.running_mean != 0).all()
    for key, array in state.items():
        np.testing.assert_array_equal(array, before[key], err_msg=key)


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64", ">f4"])
def test_load_casts_floating_point_numbers(rng, dtype):
    block = Block()
    state = {k: v if v.ndim == 0 else v.astype(dtype) for k, v in random_state(block, rng).items()}
    block.load_state_dict(state)
    assert_state(block, {k: v if v.ndim == 0 else v.astype(np.float32) for k, v in state.items()})
    assert all(array.dtype == np.float32 and array.dtype.isnative for array in block.parameters())


def test_load_copies(rng):
    block = Block()
    state = random_state(block, rng)
    expected = {key: array.copy() for key, array in state.items()}
    block.load_state_dict(state)
    for array in state.values():
        array[...] = 0
    assert_state(block, expected)


def test_load_does_not_need_num_batches_tracked(rng):
    block = Block()
    state = random_state(block, rng)
    del state["norm.num_batches_tracked"]
    assert block.load_state_dict(state).missing_keys == []
    assert block.state_dict()["norm.num_batches_tracked"] == 0


def test_load_reports_everything_and_changes_nothing(rng):
    block = Block()
    before = block.state_dict()
    state = random_state(block, rng)
    del state["conv.bias"], state["norm.running_var"]
    state["head.weight"] = state["other"] = np.zeros(1, np.float32)
    state["tail.1.weight"] = np.zeros((3, 4, 1, 1), np.float32)
    state["norm.bias"] = "text"
    state["norm.weight"] = np.zeros(4, np.int64)
    state["norm.running_mean"] = None
    state["norm.num_batches_tracked"] = np.float32(1)
    with pytest.raises(ValueError) as caught:
        block.load_state_dict(state)
    assert str(caught.value).splitlines() == [
        "load_state_dict: the state dict does not match Block:",
        "  2 missing: conv.bias, norm.running_var",
        "  2 unexpected: head.weight, other",
        "  5 of another shape or type: norm.bias (expected an array, got str), "
        "norm.num_batches_tracked (expected integers, got float32), "
        "norm.running_mean (expected an array, got NoneType), "
        "norm.weight (expected floating-point numbers, got int64), "
        "tail.1.weight (expected shape (2, 4, 1, 1), got (3, 4, 1, 1))",
    ]
    assert_state(block, before)


def test_load_not_strict(rng):
    block = Block()
    state = random_state(block, rng)
    del state["conv.bias"]
    state["other"] = np.zeros(1, np.float32)
    keys = block.load_state_dict(state, strict=False)
    assert keys == (["conv.bias"], ["other"])
    assert keys.missing_keys == ["conv.bias"]
    np.testing.assert_array_equal(block.conv.weight, state["conv.weight"])

    before = block.state_dict()
    state = random_state(block, rng) | {"conv.bias": np.zeros(5, np.float32)}
    with pytest.raises(ValueError, match=r"1 of another shape or type: conv\.bias"):
        block.load_state_dict(state, strict=False)
    assert_state(block, before)


@pytest.mark.parametrize("value", [None, [("conv.weight", 1)], 3])
def test_load_accepts_only_mappings(value):
    with pytest.raises(TypeError, match="expected a mapping of keys to arrays"):
        Block().load_state_dict(value)


@pytest.mark.parametrize("clone", [copy.deepcopy, lambda module: pickle.loads(pickle.dumps(module))])
def test_copies_are_whole_and_independent(rng, image, clone):
    block = Block()
    block.load_state_dict(random_state(block, rng))
    block.eval()
    expected = block(image)
    twin = clone(block)
    assert not twin.training
    assert_state(twin, block.state_dict())
    assert not any(array.flags.writeable for array in twin.parameters())
    np.testing.assert_array_equal(twin(image), expected)
    twin.train()
    twin(image)
    twin.conv.weight = np.zeros_like(twin.conv.weight)
    np.testing.assert_array_equal(block(image), expected)


def test_pickle_does_not_grow_by_the_packed_weight(image):
    block = Block().eval()
    before = len(pickle.dumps(block))
    block(image)
    assert len(pickle.dumps(block)) == before


def test_threads_share_a_model(rng):
    block = Block()
    block.load_state_dict(random_state(block, rng))
    block.eval()
    images = [rng.standard_normal((1, 3, 8 + i, 8), np.float32) for i in range(4)]
    expected = [copy.deepcopy(block)(image) for image in images]
    results = [[] for _ in images]
    start = threading.Barrier(len(images))

    def run(i):
        start.wait()
        results[i].extend(block(images[i]) for _ in range(20))

    workers = [threading.Thread(target=run, args=(i,)) for i in range(len(images))]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    for ours, right in zip(results, expected, strict=True):
        assert len(ours) == 20
        for result in ours:
            np.testing.assert_array_equal(result, right)


def test_text():
    assert repr(Block()) == "\n".join(
        [
            "Block(",
            "  (conv): Conv2d(3, 4, kernel_size=(3, 3), stride=(1, 1), padding=(1, 1))",
            "  (norm): BatchNorm2d(4, eps=1e-05, momentum=0.1, affine=True, track_running_stats=True)",
            "  (tail): Sequential(",
            "    (0): ReLU()",
            "    (1): Conv2d(4, 2, kernel_size=(1, 1), stride=(1, 1), bias=False)",
            "  )",
            ")",
        ]
    )


@pytest.mark.torch
def test_torch_tensors_load_and_ours_load_into_torch(rng):
    import torch

    theirs = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4), torch.nn.Linear(2, 3))
    ours = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Linear(2, 3))
    ours.load_state_dict(theirs.state_dict())
    assert_state(ours, {key: tensor.numpy() for key, tensor in theirs.state_dict().items()})
    ours.load_state_dict(random_state(ours, rng))
    theirs.load_state_dict({key: torch.tensor(array) for key, array in ours.state_dict().items()})
    assert_state(ours, {key: tensor.numpy() for key, tensor in theirs.state_dict().items()})


@pytest.mark.torch
def test_bfloat16_and_recording_torch_tensors_load(rng):
    import torch

    weight = torch.nn.Parameter(torch.tensor(rng.standard_normal((2, 3)), dtype=torch.bfloat16))
    bias = torch.nn.Parameter(torch.ones(2, dtype=torch.float16))
    layer = nn.Linear(3, 2)
    layer.load_state_dict({"weight": weight, "bias": bias})
    np.testing.assert_array_equal(layer.weight, weight.detach().float().numpy())
    np.testing.assert_array_equal(layer.bias, [1, 1])


@pytest.mark.torch
@pytest.mark.parametrize(
    "make",
    [
        lambda nn: nn.Conv2d(4, 8, (3, 5), 2, padding=1, dilation=2, groups=2, bias=False),
        lambda nn: nn.Conv2d(4, 8, 3, padding="same"),
        lambda nn: nn.Sequential(nn.Linear(2, 3), nn.Sequential(nn.Dropout(0.1), nn.Identity())),
        lambda nn: nn.Sequential(nn.MaxPool2d(2), nn.AdaptiveAvgPool2d((1, 1)), nn.Softmax(dim=1)),
        lambda nn: nn.LeakyReLU(0.2),
    ],
)
def test_text_is_that_of_torch(make):
    import torch

    assert repr(make(nn)) == repr(make(torch.nn)).replace("p=0.1, inplace=False", "p=0.1")


@pytest.mark.parametrize(
    ("prefix", "hint"),
    [
        ("backbone.", "missing keys exist with the prefix 'backbone.'"),
        ("", "unexpected keys would match with the prefix 'body.'"),
    ],
)
def test_a_prefix_that_would_fit_is_named(prefix, hint):
    layer = nn.Linear(2, 3)
    state = {prefix + key: value for key, value in layer.state_dict().items()}
    if not prefix:
        network = nn.Module()
        network.body = layer
    with pytest.raises(ValueError, match=hint):
        (layer if prefix else network).load_state_dict(state)
