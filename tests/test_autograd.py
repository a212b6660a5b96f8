"""The tape alone, with simple operations made for these tests, whose gradients are obvious."""

import gc
import threading
import weakref

import numpy as np
import pytest

import convlane
from convlane import nn
from convlane.functional import cat, mean, mse_loss, square
from convlane.functional._op import Pending, op, operations, rules, same_shape
from gradients import numeric_gradient


def f32(*values):
    return np.array(values, np.float32)


def _times_vjp(wanted, input, other):
    found = {"input": other, "other": input}
    return input * other, lambda gradient: {name: gradient * found[name] for name in wanted}


@op(shape=same_shape, vjp=_times_vjp, differentiable=("input", "other"))
def times(input, other):
    return input * other


@op(shape=same_shape)
def without_gradient(input):
    return input


def _total_vjp(wanted, input):
    return np.asarray(input.sum()), lambda gradient: {"input": np.full_like(input, gradient)}


@op(shape=lambda input: (), vjp=_total_vjp)
def total(input):
    return np.asarray(input.sum())


class Factors(nn.Module):
    """Multiplies by two parameters, one after the other."""

    def __init__(self, a, b):
        self.register_parameter("a", a)
        self.register_parameter("b", b)

    def forward(self, x):
        return times(times(x, self.a), self.b)


def test_value_and_grad_of_a_product():
    model = Factors(f32(2, 3), f32(5, 7))
    loss, gradients = convlane.value_and_grad(lambda x: total(model(x)), model)(f32(1, 10))
    assert loss == 10 + 210
    assert gradients.keys() == {"a", "b"}
    np.testing.assert_array_equal(gradients["a"], [5, 70])
    np.testing.assert_array_equal(gradients["b"], [2, 30])


def test_gradients_of_several_uses_are_added():
    model = Factors(f32(2), f32(5))
    _, gradients = convlane.value_and_grad(lambda x: total(times(model(x), model.a)), model)(f32(1))
    np.testing.assert_array_equal(gradients["a"], [2 * 2 * 5])


def test_an_array_under_two_names_has_one_gradient():
    shared = f32(3)
    shared.flags.writeable = False
    model = Factors(shared, shared)
    _, gradients = convlane.value_and_grad(lambda x: total(model(x)), model)(f32(1))
    assert list(gradients) == ["a"]
    np.testing.assert_array_equal(gradients["a"], [6])


def test_what_the_loss_does_not_depend_on_has_gradient_zero():
    model = nn.Sequential(Factors(f32(2), f32(5)), Factors(f32(1), f32(1)))
    _, gradients = convlane.value_and_grad(lambda x: total(model[0](x)), model)(f32(1))
    np.testing.assert_array_equal(gradients["1.a"], [0])


def test_aux_comes_back_as_arrays():
    model = Factors(f32(2), f32(5))

    def loss_fn(x):
        y = model(x)
        return total(y), {"outputs": [y, 3]}

    (loss, aux), _ = convlane.value_and_grad(loss_fn, model, has_aux=True)(f32(1))
    assert loss == 10
    np.testing.assert_array_equal(aux["outputs"][0], [10])
    assert type(aux["outputs"][0]) is np.ndarray
    assert aux["outputs"][1] == 3


def test_gradients_are_reported_as_soon_as_they_are_complete():
    log = []

    def _logged_vjp(wanted, input, name):
        return input, lambda gradient: log.append(name) or {"input": gradient}

    @op(shape=same_shape, vjp=_logged_vjp, differentiable=("input",))
    def logged(input, name):
        return input

    model = nn.Sequential(Factors(f32(2), f32(3)), Factors(f32(5), f32(7)), Factors(f32(1), f32(1)))

    def loss_fn(x):
        y = logged(model[0](x), "after 0")
        y = logged(times(model[1](y), model[0].b), "after 1")  # uses a parameter of the first again
        return total(y)

    def ready(name, gradient):
        log.append(name)
        reported[name] = gradient

    reported = {}
    _, gradients = convlane.value_and_grad(loss_fn, model, ready=ready)(f32(1))
    assert log == ["after 1", "1.b", "1.a", "after 0", "0.b", "0.a", "2.a", "2.b"]
    assert list(gradients) == ["0.a", "0.b", "1.a", "1.b", "2.a", "2.b"]
    for name, gradient in gradients.items():
        assert reported[name] is gradient
    np.testing.assert_array_equal(gradients["0.b"], [2 * 2 * 3 * 5 * 7])


def test_vjp():
    value, pullback = convlane.vjp(lambda x, y: times(x, times(x, y)), f32(2, 3), f32(5, 7))
    np.testing.assert_array_equal(value, [20, 63])
    dx, dy = pullback(f32(1, 10))
    np.testing.assert_array_equal(dx, [2 * 2 * 5, 10 * 2 * 3 * 7])
    np.testing.assert_array_equal(dy, [4, 90])


def test_vjp_of_several_values():
    def fn(x, y):
        return {"product": times(x, y), "sum": x + y, "product again": times(x, y)}

    value, pullback = convlane.vjp(fn, f32(2, 3), f32(5, 7))
    np.testing.assert_array_equal(value["product"], [10, 21])
    np.testing.assert_array_equal(value["sum"], [7, 10])
    gradients = {"sum": f32(100, 100), "product": f32(1, 1), "product again": f32(0, 1)}
    np.testing.assert_array_equal(pullback(gradients), [[105, 114], [102, 106]])
    (same, _), pullback = convlane.vjp(lambda x: ((y := 2 * x), y), f32(1))
    np.testing.assert_array_equal(same, [2])
    np.testing.assert_array_equal(pullback((f32(1), f32(10))), [[22]])
    _, pullback = convlane.vjp(lambda x: [x, x * x], f32(1))
    with pytest.raises(ValueError, match="expected 2 gradients, one for each value, got 1"):
        pullback([f32(1)])
    with pytest.raises(TypeError, match="must return an array that depends on its arguments, got tuple"):
        convlane.vjp(lambda x: (x, f32(1)), f32(1))


def test_vjp_of_the_same_array_twice():
    x = f32(3)
    _, pullback = convlane.vjp(times, x, x)
    np.testing.assert_array_equal(pullback(f32(1)), [[3], [3]])


def test_vjp_of_an_argument_that_is_not_used():
    _, pullback = convlane.vjp(lambda x, y: times(x, x), f32(3), f32(4, 5))
    np.testing.assert_array_equal(pullback(f32(1))[1], [0, 0])


def test_rules_are_given_which_gradients_are_wanted():
    seen = []

    def rule(wanted, input, other):
        seen.append(wanted)
        return _times_vjp(wanted, input, other)

    watched = op(shape=same_shape, vjp=rule, differentiable=("input", "other"))(lambda input, other: input * other)
    model = Factors(f32(2), f32(5))
    convlane.value_and_grad(lambda x: total(watched(x, model.a)), model)(f32(1))
    convlane.vjp(lambda x: watched(x, f32(1)), f32(1))
    assert seen == [{"other"}, {"input"}]


def test_what_is_frozen_is_computed_at_once():
    model = nn.Sequential(Factors(f32(2), f32(5)), Factors(f32(3), f32(4)))
    model[0].freeze()
    kinds = []

    def loss_fn(x):
        features = model[0](x)
        kinds.append(type(features))
        return total(model[1](features))

    _, gradients = convlane.value_and_grad(loss_fn, model)(f32(1))
    assert kinds == [np.ndarray]
    assert gradients.keys() == {"1.a", "1.b"}
    np.testing.assert_array_equal(gradients["1.a"], [40])


def test_arrays_are_released_during_the_backward_pass():
    alive = []
    kept = []

    def rule(wanted, input):
        mine = np.array(input)  # what this operation keeps
        kept.append(weakref.ref(mine))

        def pullback(gradient):
            alive.append([ref() is not None for ref in kept])
            return {"input": gradient + 0 * mine}

        return input + 0, pullback

    keeping = op(shape=same_shape, vjp=rule)(lambda input: input)
    gc.disable()
    try:
        _, pullback = convlane.vjp(lambda x: keeping(keeping(keeping(x))), f32(1))
        pullback(f32(1))
    finally:
        gc.enable()
    assert alive == [[True, True, True], [True, True, False], [True, False, False]]
    assert [ref() for ref in kept] == [None] * 3


class _Sum(Pending):
    """x + 1, which can be fused with a following `times`."""

    def __init__(self, x, log):
        self.shape, self.x, self.log = x.shape, x, log

    def compute(self):
        self.log.append("alone")
        return self.x + 1

    def then(self, operation, arguments, wanted):
        if operation != "times":
            return None
        self.log.append("fused")
        name, other = next((n, a) for n, a in arguments.items() if a is not self)
        found = {f"times.{name}": self.x + 1} if wanted else {}
        return (self.x + 1) * other, lambda g: {"input": g * other} | {n: g * factor for n, factor in found.items()}


@pytest.mark.parametrize("swap", [False, True], ids=["first", "second"])
def test_a_pending_output_is_computed_with_its_user(swap):
    log = []
    plus = op(shape=same_shape, vjp=lambda wanted, input: (_Sum(input, log), lambda g: {"input": g}))(lambda input: 0)
    value, pullback = convlane.vjp(lambda x, y: times(y, plus(x)) if swap else times(plus(x), y), f32(2), f32(5))
    np.testing.assert_array_equal(value, [15])
    np.testing.assert_array_equal(pullback(f32(1)), [[5], [3]])
    assert log == ["fused"]


def test_a_constant_user_of_a_pending_output_has_no_gradient():
    plus = op(shape=same_shape, vjp=lambda wanted, input: (_Sum(input, []), lambda g: {"input": g}))(lambda input: 0)
    value, pullback = convlane.vjp(lambda x: times(f32(5), plus(x)), f32(2))
    np.testing.assert_array_equal(value, [15])
    np.testing.assert_array_equal(pullback(f32(1)), [[5]])


def test_a_pending_output_of_two_users_is_computed_for_each():
    log = []
    plus = op(shape=same_shape, vjp=lambda wanted, input: (_Sum(input, log), lambda g: {"input": g}))(lambda input: 0)

    def fn(x, y):
        z = plus(x)
        return times(times(z, y), z)

    value, pullback = convlane.vjp(fn, f32(2), f32(5))
    np.testing.assert_array_equal(value, [45])
    np.testing.assert_array_equal(pullback(f32(1)), [[30], [9]])
    assert log == ["fused", "alone"] or log == ["fused", "fused"]


def test_lists_of_arrays():
    def rule(wanted, tensors, dim):
        return cat(tensors, dim), lambda g: {"tensors": np.split(g, len(tensors), dim)}

    join = op(shape=same_shape, vjp=rule, differentiable=("tensors",))(lambda tensors, dim: cat(tensors, dim))
    constant = f32(7)
    value, pullback = convlane.vjp(lambda x: join([x, constant, x], 0), f32(1))
    np.testing.assert_array_equal(value, [1, 7, 1])
    np.testing.assert_array_equal(pullback(f32(2, 3, 4)), [[6]])


ARITHMETIC = {  # functions of two arrays, on the tape and in NumPy
    "a + b": lambda a, b: a + b,
    "a - b": lambda a, b: a - b,
    "a * b": lambda a, b: a * b,
    "a / b": lambda a, b: a / b,
    "-a": lambda a, b: -a,
    "abs(a)": lambda a, b: abs(a),
    "a**2": lambda a, b: a**2,
    "numbers on the right": lambda a, b: ((a + 1.5) * 0.4 - 2) / 3,
    "numbers on the left": lambda a, b: 1.5 + 0.4 * (2 - a) / (3 / a),
    "NumPy's numbers": lambda a, b: (a + np.float32(1.5)) * np.int64(3) / np.float64(0.4) - np.uint8(1),
    "one as two": lambda a, b: a * b + a,
    "arrays on the left": lambda a, b: b + (b - (b * (b / a))),
}


@pytest.mark.parametrize("name", ARITHMETIC)
@pytest.mark.parametrize("shape", [(), (3,), (1, 2, 2, 3)])
@pytest.mark.parametrize("constant", [False, True], ids=["two variables", "a variable and an array"])
def test_arithmetic(name, shape, constant, rng):
    a, b = (np.asarray(rng.choice([-1, 1], shape) * rng.uniform(0.5, 2, shape), np.float32) for _ in range(2))
    gradient = np.asarray(rng.normal(size=shape), np.float32)
    fn = ARITHMETIC[name]
    value, pullback = convlane.vjp((lambda x: fn(x, b)) if constant else fn, *([a] if constant else [a, b]))
    np.testing.assert_allclose(value, fn(a, b), rtol=1e-6, atol=1e-6)
    exact = [a.astype(np.float64), b.astype(np.float64)]
    expected = [
        numeric_gradient(lambda z: np.asarray(fn(z, exact[1])), exact[0], gradient),
        numeric_gradient(lambda z: np.asarray(fn(exact[0], z)), exact[1], gradient),
    ]
    for found, wished in zip(pullback(gradient), expected, strict=False):
        np.testing.assert_allclose(found, wished, rtol=1e-5, atol=1e-5)


def test_assignment_makes_a_new_variable():
    def fn(x):
        y = x
        y += 2 * x
        y *= x
        return y - x

    value, pullback = convlane.vjp(fn, f32(5))
    np.testing.assert_array_equal(value, [3 * 25 - 5])
    np.testing.assert_array_equal(pullback(f32(1)), [[6 * 5 - 1]])


def test_losses_are_added_with_factors():
    model = Factors(f32(2), f32(5))

    def loss_fn(x, target):
        y = model(x)
        return mse_loss(y, target) + 0.4 * mse_loss(times(y, model.a), target) - mean(square(model.b)) / 10

    loss, gradients = convlane.value_and_grad(loss_fn, model)(f32(1), f32(4))
    np.testing.assert_allclose(loss, 36 + 0.4 * 256 - 2.5, rtol=1e-6)
    np.testing.assert_allclose(gradients["a"], [2 * 6 * 5 + 0.4 * 2 * 16 * 20], rtol=1e-6)
    np.testing.assert_allclose(gradients["b"], [2 * 6 * 2 + 0.4 * 2 * 16 * 4 - 1], rtol=1e-6)


def test_parameters_on_the_right_have_gradients():
    model = Factors(f32(2), f32(5))
    _, gradients = convlane.value_and_grad(lambda x: total((times(x, model.a) - model.b) / model.b), model)(f32(3))
    np.testing.assert_allclose(gradients["a"], [3 / 5])
    np.testing.assert_allclose(gradients["b"], [-3 * 2 / 25], rtol=1e-6)


@pytest.mark.parametrize(
    ("use", "named"),
    [
        (lambda y: np.tanh(y), "numpy.tanh .*functional.tanh"),
        (lambda y: np.add(y, y, where=True), "numpy.add .*functional.add"),
        (lambda y: np.multiply.outer(y, y), "numpy.multiply .*functional.mul"),
        (lambda y: np.exp(y), "numpy.exp .*functional.exp"),
        (lambda y: np.log(y), "numpy.log .*functional.log"),
        (lambda y: np.mean(y), "numpy.mean .*functional.mean"),
        (lambda y: np.sum(y), "numpy.sum .*functional.sum"),
        (lambda y: np.square(y), "numpy.square .*functional.square"),
        (lambda y: np.abs(y), "numpy.absolute .*functional.abs"),
        (lambda y: np.concatenate([y, y]), "numpy.concatenate .*functional.cat"),
        (lambda y: np.reshape(y, -1), "numpy.reshape .*functional.reshape"),
        (lambda y: np.maximum(y, 0), "numpy.maximum .*functional.maximum"),
        (lambda y: y.ravel(), "'ravel' .*functional.flatten"),
        (lambda y: np.asarray(y), "conversion to an array"),
        (lambda y: float(y), "__float__"),
        (lambda y: y // 2, "__floordiv__"),
        (lambda y: 0 in y, "__contains__"),
    ],
)
def test_numpy_s_functions_name_what_to_use(use, named):
    with pytest.raises(TypeError, match=named):
        convlane.vjp(use, f32(1))


@pytest.mark.parametrize("use", [lambda y: y + "1", lambda y: None * y, lambda y: y / [1], lambda y: "1" - y])
def test_arithmetic_with_anything_else(use):
    with pytest.raises(TypeError, match="unsupported operand"):
        convlane.vjp(use, f32(1))


def test_division_by_nothing():
    with pytest.raises(ZeroDivisionError):
        convlane.vjp(lambda y: y / 0, f32(1))


class Watched(nn.Module):
    """A network that records, during the backward pass, which activations are still alive."""

    def __init__(self, *layers):
        self.layers = nn.Sequential(*layers)
        self.activations, self.alive = [], []

    def forward(self, x):
        for layer in self.layers:
            x = layer(x)
            self.activations.append(weakref.ref(x.array()))
            x = self.passed(x)
        return x

    @property
    def passed(self):
        def rule(wanted, input):
            def pullback(gradient):
                self.alive.append([ref() is not None for ref in self.activations])
                return {"input": gradient}

            return input, pullback

        return op(shape=same_shape, vjp=rule)(lambda input: input)


def test_an_activation_is_released_when_its_last_user_has_run(rng):
    """Outputs of convolutions before a ReLU are not needed; those of a ReLU are, until the next layer is done."""
    model = Watched(nn.Conv2d(1, 2, 3), nn.ReLU(), nn.Conv2d(2, 2, 3), nn.ReLU(), nn.Conv2d(2, 2, 3), nn.ReLU())
    images = rng.normal(size=(1, 1, 9, 9)).astype(np.float32)
    gc.disable()
    try:
        convlane.value_and_grad(lambda x: mean(model(x)), model)(images)
    finally:
        gc.enable()
    relu_lives = [[i % 2 == 1 and i <= layer for i in range(6)] for layer in reversed(range(6))]
    assert model.alive == relu_lives


def test_every_operation_of_the_library_has_a_gradient():
    ours = [fn for fn in operations().values() if fn.__module__.startswith("convlane.")]
    assert len(ours) > 40
    assert [fn.__name__ for fn in ours if rules(fn).vjp is None] == []


def test_an_operation_without_gradient_is_named():
    with pytest.raises(TypeError, match="without_gradient has no gradient"):
        convlane.vjp(without_gradient, f32(1))


@pytest.mark.parametrize(
    ("loss_fn", "got"),
    [
        (lambda model, x: model(x), "variable of shape"),
        (lambda model, x: total(x), "ndarray of shape"),
        (lambda model, x: None, "NoneType"),
    ],
    ids=["not one number", "no parameter", "nothing"],
)
def test_only_a_number_is_a_loss(loss_fn, got):
    model = Factors(f32(2, 3), f32(5, 7))
    with pytest.raises(TypeError, match=got):
        convlane.value_and_grad(lambda x: loss_fn(model, x), model)(f32(1, 1))


def test_a_pullback_runs_once():
    _, pullback = convlane.vjp(lambda x: times(x, x), f32(1))
    with pytest.raises(ValueError, match=r"\(1,\).*\(2,\)"):
        pullback(f32(1, 2))
    pullback(f32(1))
    with pytest.raises(RuntimeError, match="released"):
        pullback(f32(1))


def test_a_variable_that_escapes_is_refused():
    escaped = []
    _, pullback = convlane.vjp(lambda x: escaped.append(y := times(x, x)) or y, f32(1))
    pullback(f32(1))
    with pytest.raises(RuntimeError, match="has ended"):
        times(escaped[0], f32(1))
    with pytest.raises(ValueError, match="another"):
        convlane.vjp(lambda x: times(x, escaped[0]), f32(1))


def test_after_an_error_nothing_is_recorded():
    model = Factors(f32(2), f32(5))
    with pytest.raises(ZeroDivisionError):
        convlane.value_and_grad(lambda x: 1 / 0, model)(f32(1))
    assert type(model(f32(1))) is np.ndarray


def test_other_threads_are_not_recorded():
    model = Factors(f32(2), f32(5))
    kinds = []

    def loss_fn(x):
        thread = threading.Thread(target=lambda: kinds.append(type(model(x))))
        thread.start()
        thread.join()
        return total(model(x))

    convlane.value_and_grad(loss_fn, model)(f32(1))
    assert kinds == [np.ndarray]


def test_a_loss_of_the_library():
    model = Factors(f32(2), f32(5))
    loss, gradients = convlane.value_and_grad(lambda x, y: mse_loss(model(x), y), model)(f32(1), f32(4))
    assert loss == 36
    np.testing.assert_array_equal(gradients["a"], [2 * 6 * 5])


def test_freezing():
    model = nn.Sequential(nn.BatchNorm2d(2), nn.BatchNorm2d(2))
    model[0].freeze()
    model.train()
    assert [module.training for module in model] == [False, True]
    assert [name for name, _ in model.named_parameters(trainable=True)] == ["1.weight", "1.bias"]
    assert len(list(model.named_parameters())) == 4
    model.freeze(False).train()
    assert model[0].training
