"""Freezing parts by name, replacing heads, computing features once; frozen layers cost neither time nor memory."""

import dataclasses
import gc
import weakref

import numpy as np
import pytest

import convlane
from convlane import models, nn
from convlane.data import Loader
from convlane.functional import cross_entropy
from convlane.functional._op import rules
from convlane.training import SGD, freeze, freeze_all_but, precompute_features, replace_head, split_head
from convlane.training.transfer import head_names

HEADS = {
    "alexnet": ["classifier.6"],
    "densenet121": ["classifier"],
    "googlenet": ["aux1.fc2", "aux2.fc2", "fc"],
    "inception_v3": ["AuxLogits.fc", "fc"],
    "lenet5": ["classifier.4"],
    "lenet5_1998": ["output"],
    "mobilenet_v1": ["classifier.1"],
    "mobilenet_v3_small": ["classifier.3"],
    "resnet20": ["fc"],
    "squeezenet1_1": ["classifier.1"],
    "vgg11": ["classifier.6"],
}


def trainable(model):
    return [name for name, _ in model.named_parameters(trainable=True)]


def small_network():
    """Two blocks of convolution, batch norm and ReLU, and a head."""
    return nn.Sequential(
        {
            "one": nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Dropout(0.5)),
            "two": nn.Sequential(nn.Conv2d(4, 6, 3), nn.BatchNorm2d(6), nn.ReLU()),
            "pool": nn.GlobalAvgPool2d(),
            "flatten": nn.Flatten(),
            "fc": nn.Linear(6, 3),
        }
    )


@pytest.fixture
def batch(rng):
    return rng.standard_normal((4, 1, 8, 8)).astype(np.float32), np.array([0, 1, 2, 1])


def step_of(model):
    return convlane.value_and_grad(lambda images, classes: cross_entropy(model(images), classes), model)


@pytest.mark.parametrize("name", HEADS)
def test_heads_are_found(name):
    assert head_names(models.create(name)) == HEADS[name]


def test_freezing_by_name_prefix_and_pattern():
    everything = trainable(small_network())
    for names, frozen in (
        (["one"], ["one.0", "one.1"]),
        (["one.0", "fc"], ["one.0", "fc"]),
        (["*.1"], ["one.1", "two.1"]),
        (["t?o"], ["two.0", "two.1"]),
    ):
        model = freeze(small_network(), *names)
        assert trainable(model) == [name for name in everything if name.rsplit(".", 1)[0] not in frozen]
        assert trainable(freeze(model, *names, frozen=False)) == everything
        assert all(module.training for module in model.modules())


def test_freezing_nothing_and_unknown_names():
    model = small_network()
    assert trainable(freeze(model)) == trainable(small_network())
    with pytest.raises(ValueError, match="no module has the name 'three'; the modules are fc, flatten, one, pool, two"):
        freeze(model, "one", "three")
    assert trainable(model) == trainable(small_network())


@pytest.mark.parametrize("training", [False, True])
def test_all_but_some(training):
    model = freeze_all_but(small_network().train(training), "fc", "two.1")
    assert trainable(model) == ["two.1.weight", "two.1.bias", "fc.weight", "fc.bias"]
    assert (model.fc.training, model.two[1].training, model.one[1].training) == (training, training, False)
    model.train()
    assert (model.fc.training, model.two[1].training, model.one[1].training) == (True, True, False)


def test_all_but_the_head():
    assert trainable(freeze_all_but(models.create("vgg11"))) == ["classifier.6.weight", "classifier.6.bias"]
    model = small_network()
    with pytest.raises(ValueError, match="create has not made this Sequential"):
        freeze_all_but(model)
    assert trainable(model) == trainable(small_network())


def test_frozen_layers_do_not_change_in_training(batch):
    model = freeze(small_network(), "one").train()
    before = model.state_dict()
    alone = model.one(batch[0])
    optimizer, step = SGD(model, 0.5), step_of(model)
    for _ in range(3):
        optimizer.step(step(*batch)[1])
    after = model.state_dict()
    changed = {key for key in before if (before[key] != after[key]).any()}
    assert changed == {key for key in before if not key.startswith("one.")} - {"two.0.bias"} or changed == {
        key for key in before if not key.startswith("one.")
    }
    np.testing.assert_array_equal(model.one(batch[0]), alone)


def test_frozen_batch_norm_uses_its_running_statistics(rng, batch):
    model = freeze(small_network(), "one")
    model.one[1].running_mean = rng.standard_normal(4).astype(np.float32)
    model.one[1].running_var = rng.uniform(1, 2, 4).astype(np.float32)
    expected = model.eval().one(batch[0])
    model.train()
    seen = []
    step = convlane.value_and_grad(lambda x, y: cross_entropy(model.fc(seen_of(model, x, seen)), y), model)
    step(*batch)
    np.testing.assert_array_equal(seen[0], expected)


def seen_of(model, images, seen):
    maps = model.one(images)
    seen.append(np.array(maps))
    return model.flatten(model.pool(model.two(maps)))


def test_frozen_layers_compute_no_gradients(batch, monkeypatch):
    """A frozen layer at the start is not recorded; one after trainable layers passes gradients on, but has none."""
    wanted = {}
    for operation in (convlane.functional.conv2d, convlane.functional.batch_norm, convlane.functional.linear):
        rule = rules(operation)

        def noted(names, *args, _rule=rule, _name=operation.__name__, **kwargs):
            wanted.setdefault(_name, []).append(sorted(names))
            return _rule.vjp(names, *args, **kwargs)

        changed = dataclasses.replace(rule, vjp=noted)
        monkeypatch.setitem(_all_rules(), operation, changed)
    step_of(freeze(small_network(), "one", "two").train())(*batch)
    assert wanted == {"linear": [["bias", "input", "weight"]]} or wanted == {"linear": [["bias", "weight"]]}
    wanted.clear()
    _, gradients = step_of(freeze(small_network(), "two", "fc").train())(*batch)
    assert wanted["linear"] == [["input"]]
    assert wanted["conv2d"] == [["bias", "weight"], ["input"]]
    assert wanted["batch_norm"][1] == ["input"]
    assert list(gradients) == ["one.0.weight", "one.0.bias", "one.1.weight", "one.1.bias"]


def _all_rules():
    from convlane.functional import _op

    return _op._RULES


class Witness(nn.Module):
    """Returns its input and keeps a weak reference to it."""

    def __init__(self, seen):
        self.seen = seen

    def forward(self, input):
        if isinstance(input, np.ndarray):
            self.seen.append(weakref.ref(input))
        return input


def test_frozen_layers_keep_no_activations(batch):
    seen = []
    model = nn.Sequential(
        *(nn.Conv2d(1, 4, 3), Witness(seen), nn.ReLU(), Witness(seen), nn.Conv2d(4, 4, 3), Witness(seen)),
        *(nn.Flatten(), nn.Linear(64, 3)),
    )
    alive = []

    def loss_fn(images, classes):
        logits = model(images)
        gc.collect()
        alive.append(sum(ref() is not None for ref in seen))
        return cross_entropy(logits, classes)

    freeze(model, *"024")
    convlane.value_and_grad(loss_fn, model)(*batch)
    # The linear layer's input is kept for its weight's gradient; nothing before it is.
    assert len(seen) == 3
    assert alive[0] <= 1
    assert [ref() is not None for ref in seen[:2]] == [False, False]


def test_a_new_head():
    model = models.create("squeezenet1_1", num_classes=7)
    body = model.features.state_dict()
    assert replace_head(model, 4) is model
    assert model.classifier[1].weight.shape == (4, 512, 1, 1)
    assert model.classifier[1].weight.any()
    assert model(np.zeros((2, 3, 64, 64), np.float32)).shape == (2, 4)
    for key, array in model.features.state_dict().items():
        np.testing.assert_array_equal(array, body[key])
    assert (model.classifier[1].weight != replace_head(model, 4).classifier[1].weight).any()


def test_a_new_head_learns_on_a_frozen_trunk(tmp_path):
    model = replace_head(models.create("googlenet").freeze(), 3)
    assert trainable(model) == [f"{head}.{name}" for head in HEADS["googlenet"] for name in ("weight", "bias")]
    model.save(tmp_path / "network.safetensors")
    again = convlane.load(tmp_path / "network.safetensors")
    assert (again.fc.out_features, again.aux1.fc2.out_features) == (3, 3)
    np.testing.assert_array_equal(again.fc.weight, model.fc.weight)


def test_a_head_for_a_network_without_one():
    model = replace_head(models.create("resnet20", num_classes=0), 6)
    assert model.fc.weight.shape == (6, 64)


def test_a_head_by_name():
    model = replace_head(small_network(), 9, head="fc")
    assert model.fc.weight.shape == (9, 6)
    assert model.fc.bias is not None
    with pytest.raises(ValueError, match="replace_head: no module has the name 'head'"):
        replace_head(model, 9, head="head")
    with pytest.raises(ValueError, match=r"replace_head: .*create has not made this Sequential.*name the head"):
        replace_head(model, 9)
    with pytest.raises(TypeError, match="pool is a GlobalAvgPool2d"):
        replace_head(model, 9, head="pool")
    with pytest.raises(TypeError, match="output is a Distances"):
        replace_head(models.create("lenet5_1998"), 5)
    with pytest.raises(ValueError, match="num_classes"):
        replace_head(model, 0, head="fc")
    changed = models.create("resnet20")
    changed.fc = None
    with pytest.raises(ValueError, match="no longer has its head where `create` made it"):
        replace_head(changed, 3)


def test_trunk_and_head_are_the_network(rng):
    model = models.create("resnet20").train()
    images = rng.standard_normal((2, 3, 32, 32)).astype(np.float32)
    trunk, head = split_head(model)
    assert head is model.fc
    assert all(a is b for a, b in zip(trunk.parameters(), model.parameters(), strict=False))
    assert model.training
    model.eval()
    np.testing.assert_array_equal(head(trunk(images)), model(images))


@pytest.mark.parametrize("epochs", [1, 2])
def test_features_are_what_the_trunk_returns(rng, epochs):
    trunk = models.create("lenet5", num_classes=0)
    images, classes = rng.random((70, 1, 32, 32)).astype(np.float32), np.arange(70)
    expected = np.concatenate([trunk(images)] * epochs)
    for data in ((images, classes), Loader((images, classes), 16)):
        features, targets = precompute_features(trunk, data, epochs=epochs)
        np.testing.assert_array_equal(features, expected)
        np.testing.assert_array_equal(targets, np.tile(classes, epochs))
    plan = convlane.compile(trunk, (None, 1, 32, 32))
    np.testing.assert_allclose(precompute_features(plan, (images, classes))[0], expected[:70], atol=1e-5)


def test_a_head_trained_on_features_is_one_trained_after_the_trunk(rng):
    """The gradients of every step are the same, and so are the weights."""
    images, classes = rng.random((24, 1, 32, 32)).astype(np.float32), rng.integers(0, 4, 24)
    slow, fast = models.create("lenet5"), models.create("lenet5")
    fast.load_state_dict(slow.state_dict())
    freeze_all_but(slow)
    trunk, head = split_head(fast)
    features = precompute_features(trunk, (images, classes))
    optimizers = SGD(slow, 0.1), SGD(head, 0.1)
    steps = step_of(slow), step_of(head)
    for (a, labels), (b, same) in zip(Loader((images, classes), 8), Loader(features, 8), strict=True):
        np.testing.assert_array_equal(labels, same)
        for optimizer, step, x in zip(optimizers, steps, (a, b), strict=True):
            optimizer.step(step(x, labels)[1])
    np.testing.assert_array_equal(slow.classifier[4].weight, fast.classifier[4].weight)


def test_features_need_a_trunk_in_eval_mode_and_data():
    images = np.zeros((2, 1, 32, 32), np.float32)
    with pytest.raises(ValueError, match=r"in training mode; call its eval\(\)"):
        precompute_features(models.create("lenet5").train(), (images, np.zeros(2)))
    with pytest.raises(ValueError, match="there is no data"):
        precompute_features(models.create("lenet5"), [])
    with pytest.raises(ValueError, match="epochs"):
        precompute_features(models.create("lenet5"), [], epochs=0)


def test_learning_rates_by_part(batch):
    model = small_network().train()
    before = model.state_dict()
    _, gradients = step_of(model)(*batch)
    optimizer = SGD(model, 0.1, groups={"one": {"lr": 0.0}, "two": {"lr": 0.01}})
    optimizer.step(gradients)
    for name, array in model.named_parameters():
        rate = {"one": 0.0, "two": 0.01, "fc": 0.1}[name.split(".")[0]]
        np.testing.assert_allclose(array, before[name] - np.float32(rate) * gradients[name], rtol=1e-6, atol=1e-7)
