"""Optimisers against torch's and against plain formulas, and which parameters are seen by whom."""

import copy

import numpy as np
import pytest

import convlane
from convlane import nn
from convlane.training import SGD, Adam, AdamW, RMSprop, clip_grad_norm, schedule

CASES = {
    "sgd": (SGD, "SGD", {"lr": 0.1}, {}),
    "momentum": (SGD, "SGD", {"lr": 0.1, "momentum": 0.9}, {}),
    "nesterov": (SGD, "SGD", {"lr": 0.1, "momentum": 0.9, "nesterov": True, "weight_decay": 0.01}, {}),
    "rmsprop": (RMSprop, "RMSprop", {"lr": 0.01, "weight_decay": 0.01}, {}),
    "rmsprop momentum": (RMSprop, "RMSprop", {"lr": 0.01, "alpha": 0.9, "momentum": 0.5}, {}),
    "adam": (Adam, "Adam", {"lr": 0.01, "weight_decay": 0.1}, {}),
    "adamw": (AdamW, "AdamW", {"lr": 0.01, "weight_decay": 0.1, "betas": (0.8, 0.9)}, {}),
}


def network(rng, sizes=((3, 5), (7, 3), (40, 33))):
    layers = [nn.Linear(i, o) for o, i in sizes]
    for layer in layers:
        layer.weight = rng.normal(size=layer.weight.shape).astype(np.float32)
    return nn.Sequential(*layers)


def gradients_of(model, rng):
    return {name: rng.normal(size=array.shape).astype(np.float32) for name, array in model.named_parameters()}


@pytest.mark.torch
@pytest.mark.parametrize("case", CASES)
def test_like_torch(case, rng, isa, threads):
    import torch

    ours, theirs, options, _ = CASES[case]
    model = network(rng, ((3, 5), (7, 3), (333, 401)))
    parameters = {name: torch.tensor(array.copy()) for name, array in model.named_parameters()}
    optimizer = ours(model, **options)
    reference = getattr(torch.optim, theirs)(parameters.values(), **options)
    for _ in range(4):
        gradients = gradients_of(model, rng)
        for name, parameter in parameters.items():
            parameter.grad = torch.tensor(gradients[name])
        optimizer.step(gradients)
        reference.step()
    for name, array in model.named_parameters():
        np.testing.assert_allclose(array, parameters[name].numpy(), rtol=1e-5, atol=1e-6, err_msg=name)


@pytest.mark.parametrize("case", CASES)
def test_the_same_bits_for_any_number_of_threads(case, rng):
    kind, _, options, _ = CASES[case]
    found = []
    start = network(rng, ((401, 333),))
    gradients = gradients_of(start, rng)
    for count in (1, 2, 5):
        model = copy.deepcopy(start)
        optimizer = kind(model, **options)
        with convlane.num_threads(count):
            for _ in range(2):
                optimizer.step(gradients, gradient_factor=0.5)
        found.append(model.state_dict())
    for other in found[1:]:
        for name in other:
            np.testing.assert_array_equal(other[name], found[0][name])


def test_gradient_factor(rng):
    model = network(rng)
    twin = copy.deepcopy(model)
    gradients = gradients_of(model, rng)
    SGD(model, 0.1).step(gradients, gradient_factor=0.25)
    SGD(twin, 0.1).step({name: gradient * np.float32(0.25) for name, gradient in gradients.items()})
    for name, array in model.named_parameters():
        np.testing.assert_array_equal(array, dict(twin.named_parameters())[name])


@pytest.mark.parametrize("case", CASES)
def test_resumed_training_has_the_same_bits(case, rng):
    kind, _, options, _ = CASES[case]
    model = network(rng)
    steps = [gradients_of(model, rng) for _ in range(6)]
    optimizer = kind(model, **options)
    for gradients in steps[:3]:
        optimizer.step(gradients)
    resumed = network(rng)
    resumed.load_state_dict(model.state_dict())
    second = kind(resumed, **options)
    second.load_state_dict(optimizer.state_dict())
    for gradients in steps[3:]:
        optimizer.step(gradients)
        second.step(gradients)
    for (name, array), (_, other) in zip(model.named_parameters(), resumed.named_parameters(), strict=True):
        np.testing.assert_array_equal(array, other, err_msg=name)


def test_arrays_that_are_referenced_never_change(rng):
    model = network(rng)
    optimizer = SGD(model, 0.1, momentum=0.9)
    x = rng.normal(size=(2, 5)).astype(np.float32)
    layer = model[0]
    for _ in range(3):
        state = model.state_dict()
        before = {name: array.copy() for name, array in state.items()}
        plan = convlane.compile(nn.Sequential(nn.Flatten(), layer).eval(), (2, 5, 1, 1))
        expected = plan(x[:, :, None, None])
        np.testing.assert_allclose(layer(x), expected, rtol=1e-5, atol=1e-6)
        part = layer.weight[1:]
        part_before = part.copy()
        optimizer.step(gradients_of(model, rng))
        assert not np.array_equal(layer.weight[1:], part_before)
        np.testing.assert_array_equal(part, part_before)
        for name, array in state.items():
            np.testing.assert_array_equal(array, before[name])
        np.testing.assert_array_equal(plan(x[:, :, None, None]), expected)
        np.testing.assert_allclose(layer(x), x @ layer.weight.T + layer.bias, rtol=1e-4, atol=1e-5)


def test_parameters_without_references_are_updated_in_place(rng):
    model = network(rng)
    optimizer = SGD(model, 0.1)
    optimizer.step(gradients_of(model, rng))
    address = model[0].weight.ctypes.data
    for _ in range(3):
        model[0](np.zeros((1, 5), np.float32))  # packs the weight, which must not keep a reference to it
        optimizer.step(gradients_of(model, rng))
        assert model[0].weight.ctypes.data == address
    kept = model[0].weight
    optimizer.step(gradients_of(model, rng))
    assert model[0].weight.ctypes.data != address
    assert not np.array_equal(kept, model[0].weight)


def test_references_to_the_last_parameters_need_two_buffers(rng):
    model = network(rng)
    optimizer = SGD(model, 0.1)
    optimizer.step(gradients_of(model, rng))
    addresses = set()
    for _ in range(6):
        held = model.state_dict()
        before = held["0.weight"].copy()
        optimizer.step(gradients_of(model, rng))
        addresses.add(model[0].weight.ctypes.data)
        np.testing.assert_array_equal(held["0.weight"], before)
        assert not np.array_equal(model[0].weight, before)
    assert len(addresses) == 2
    kept = [model.state_dict()]
    for _ in range(3):
        optimizer.step(gradients_of(model, rng))
        kept.append(model.state_dict())
    assert len({state["0.weight"].ctypes.data for state in kept}) == 4


def test_parameters_are_read_only_and_new_after_each_step(rng):
    model = network(rng)
    optimizer = SGD(model, 0.1)
    optimizer.step(gradients_of(model, rng))
    first = model[0].weight
    assert not first.flags.writeable
    optimizer.step(gradients_of(model, rng))
    assert model[0].weight is not first


def test_weights_loaded_between_steps_are_used(rng):
    model = network(rng)
    optimizer = SGD(model, 1.0)
    optimizer.step(gradients_of(model, rng))
    model[1].weight = np.zeros(model[1].weight.shape, np.float32)
    gradients = gradients_of(model, rng)
    optimizer.step(gradients)
    np.testing.assert_array_equal(model[1].weight, -gradients["1.weight"])


def test_a_parameter_of_two_modules_moves_in_both(rng):
    model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    model[1].weight = model[0].weight
    assert model[1].weight is model[0].weight
    gradients = {name: np.ones(array.shape, np.float32) for name, array in model.named_parameters()}
    assert list(gradients) == ["0.weight", "0.bias", "1.bias"]
    before = model[0].weight.copy()
    SGD(model, 1.0).step(gradients)
    np.testing.assert_array_equal(model[0].weight, before - 1)
    assert model[1].weight is model[0].weight


def test_groups(rng):
    model = network(rng)
    optimizer = SGD(
        model, 1.0, groups={"2": {"lr": 0.5}, "*.bias": {"lr": 0.0}, "0.weight": {"lr": lambda done: 0.25 * done}}
    )
    before = {name: array.copy() for name, array in model.named_parameters()}
    ones = {name: np.ones(array.shape, np.float32) for name, array in before.items()}
    optimizer.step(ones)
    rates = {"0.weight": 0, "0.bias": 0, "1.weight": 1, "1.bias": 0, "2.weight": 0.5, "2.bias": 0}
    for name, array in model.named_parameters():
        np.testing.assert_allclose(array, before[name] - np.float32(rates[name]), atol=1e-6, err_msg=name)
    assert optimizer.learning_rate("0.weight") == 0.25


def test_frozen_parameters_stay(rng):
    model = network(rng)
    model[0].freeze()
    before = model[0].weight.copy()
    optimizer = AdamW(model, 0.1)
    gradients = {name: np.ones(a.shape, np.float32) for name, a in model.named_parameters(trainable=True)}
    assert "0.weight" not in gradients
    optimizer.step(gradients)
    np.testing.assert_array_equal(model[0].weight, before)
    with pytest.raises(ValueError, match="not frozen"):
        SGD(model.freeze(), 0.1)


@pytest.mark.parametrize(
    ("make", "error", "text"),
    [
        (lambda m: SGD(m, -1.0), ValueError, "lr"),
        (lambda m: SGD(m, "fast"), TypeError, "lr"),
        (lambda m: SGD(m, 0.1, momentum=1.5), ValueError, "momentum"),
        (lambda m: SGD(m, 0.1, nesterov=True), ValueError, "momentum"),
        (lambda m: Adam(m, betas=(0.9, 1.0)), ValueError, r"betas\[1\]"),
        (lambda m: SGD(m, 0.1, groups={"head": {"lr": 1.0}}), ValueError, "'head'"),
        (lambda m: SGD(m, 0.1, groups={"0": {"momentum": 1.0}}), ValueError, "momentum"),
    ],
)
def test_bad_arguments(make, error, text, rng):
    with pytest.raises(error, match=text):
        make(network(rng))


def test_bad_gradients_change_nothing(rng):
    model = network(rng)
    optimizer = SGD(model, 0.1)
    before = model.state_dict()
    gradients = gradients_of(model, rng)
    for wrong, error in [
        ({k: v for k, v in gradients.items() if k != "0.bias"}, ValueError),
        (gradients | {"other": gradients["0.bias"]}, ValueError),
        (gradients | {"0.bias": np.zeros(4, np.float32)}, ValueError),
        (gradients | {"0.bias": np.zeros(3)}, TypeError),
    ]:
        with pytest.raises(error, match=r"0\.bias|other"):
            optimizer.step(wrong)
    assert optimizer.steps == 0
    for name, array in model.state_dict().items():
        assert array is before[name]


def test_the_state_of_another_optimizer_is_refused(rng):
    model = network(rng)
    with pytest.raises(ValueError, match=r"mean\.0"):
        SGD(model, 0.1).load_state_dict(Adam(model).state_dict())
    other = Adam(network(rng, ((4, 5), (7, 3), (40, 33)))).state_dict()
    with pytest.raises(ValueError, match=r"mean\.0"):
        Adam(model).load_state_dict(other)


def test_clip_grad_norm(rng, isa):
    gradients = {"a": rng.normal(size=(300, 401)).astype(np.float32), "b": rng.normal(size=7).astype(np.float32)}
    expected = np.sqrt(sum(np.sum(g.astype(np.float64) ** 2) for g in gradients.values()))
    found = []
    for count in (1, 2, 3):
        with convlane.num_threads(count):
            found.append(clip_grad_norm(gradients, 2.0))
    assert found[0] == found[1] == found[2]
    norm, factor = found[0]
    np.testing.assert_allclose(norm, expected, rtol=1e-6)
    np.testing.assert_allclose(factor * norm, 2.0)
    assert clip_grad_norm(gradients, 1e9)[1] == 1.0


@pytest.mark.torch
def test_schedules_like_torch():
    import torch

    def theirs(make, steps):
        optimizer = torch.optim.SGD([torch.zeros(1)], lr=0.5)
        scheduler = make(optimizer)
        rates = []
        for _ in range(steps):
            rates.append(optimizer.param_groups[0]["lr"])
            optimizer.step()
            scheduler.step()
        return rates

    lr = torch.optim.lr_scheduler
    cases = [
        (schedule.step(0.5, 4, 0.3), lambda o: lr.StepLR(o, 4, 0.3)),
        (schedule.multi_step(0.5, [3, 7]), lambda o: lr.MultiStepLR(o, [3, 7])),
        (schedule.cosine(0.5, 20, 0.1), lambda o: lr.CosineAnnealingLR(o, 20, 0.1)),
        (schedule.one_cycle(0.5, 20), lambda o: lr.OneCycleLR(o, 0.5, 20)),
    ]
    for ours, make in cases:
        np.testing.assert_allclose([ours(i) for i in range(20)], theirs(make, 20), rtol=1e-6)


def test_warm_up():
    rate = schedule.warm_up(lambda done: 8.0 - done, 4)
    assert [rate(i) for i in range(6)] == [2, 4, 6, 8, 8, 7]
    assert schedule.warm_up(0.5, 2)(0) == 0.25
