"""What every operation must declare, and that all of its arguments may be symbols or variables."""

import inspect

import numpy as np
import pytest

import convlane
from convlane import functional as F
from convlane.functional._op import ACTIVATIONS, hints_of, operands_of, operations, rules, signature_of
from convlane.graph.lowering import LOWERINGS
from convlane.graph.trace import trace

OURS = {name: fn for name, fn in operations().items() if fn.__module__.startswith("convlane.")}
SHAPE = (1, 2, 4, 4)


def test_every_operation_has_all_rules_or_a_reason():
    missing = {
        name: [rule for rule in ("vjp", "receptive") if not getattr(rules(fn), rule)] for name, fn in OURS.items()
    }
    assert {name: rules for name, rules in missing.items() if rules} == {}


def test_every_operation_compiles_or_says_why_not():
    removed = {"dropout", "nchw"}  # by passes; dropout in training mode is refused
    compiled = LOWERINGS.keys() | removed
    assert {name for name, fn in OURS.items() if bool(rules(fn).compiles) == (name in compiled)} == set()
    convlane.compile(lambda x: F.relu(F.dropout(F.nchw(x), training=False)), SHAPE)
    with pytest.raises(ValueError, match=r"mse_loss \(losses are not part of a plan\)"):
        convlane.compile(lambda x: F.mse_loss(x, x), SHAPE)


@pytest.mark.parametrize("name", OURS)
def test_traits_are_of_existing_arguments(name):
    traits = rules(OURS[name]).traits
    assert traits.parameters <= signature_of(OURS[name]).parameters.keys()
    assert traits.activation or not traits.derivative_from_output
    assert hints_of(OURS[name]).keys() >= signature_of(OURS[name]).parameters.keys()
    first = next(iter(inspect.signature(OURS[name]).parameters))
    assert first in operands_of(OURS[name])


def test_activations_are_found_by_their_traits():
    assert {name for name, fn in OURS.items() if rules(fn).traits.activation} == set(ACTIVATIONS)
    assert "relu" in ACTIVATIONS


CONSTANT = np.linspace(-1, 2, 32, dtype=np.float32).reshape(SHAPE)
ANY_ARGUMENT = {
    "by keyword": lambda x: F.relu(input=x),
    "by keyword behind others": lambda x: F.add(CONSTANT, other=x, activation="relu"),
    "second": lambda x: F.mul(CONSTANT, x),
    "in a list behind a constant": lambda x: F.cat([CONSTANT, x, CONSTANT]),
    "in a list by keyword": lambda x: F.cat(dim=-1, tensors=(CONSTANT, x)),
    "as residual": lambda x: F.conv2d(CONSTANT, np.ones((2, 2, 1, 1), np.float32), residual=x),
    "as weight": lambda x: F.conv2d(CONSTANT, x),
    "array + it": lambda x: CONSTANT + x,
    "array - it": lambda x: CONSTANT - x,
    "array * it": lambda x: CONSTANT * x,
    "array / it": lambda x: CONSTANT / x,
    "number / it": lambda x: 2 / x,
}


@pytest.mark.parametrize("name", ANY_ARGUMENT)
def test_any_argument_may_be_traced_and_recorded(name, rng):
    function = ANY_ARGUMENT[name]
    x = rng.uniform(0.5, 2, SHAPE).astype(np.float32)
    expected = function(x)
    graph = trace(function, SHAPE)
    assert graph.output_shape == expected.shape
    value, pullback = convlane.vjp(function, x)
    np.testing.assert_allclose(value, expected, rtol=1e-6)
    (gradient,) = pullback(np.ones(expected.shape, np.float32))
    direction, step = rng.standard_normal(SHAPE).astype(np.float32), 2**-7
    slope = (function(x + step * direction).sum() - function(x - step * direction).sum()) / (2 * step)
    np.testing.assert_allclose((gradient * direction).sum(), slope, rtol=2e-2, atol=2e-2)


def test_constants_are_nodes_with_types():
    graph = trace(lambda x: F.cat([np.ones(SHAPE, np.float16), x]), SHAPE)
    assert [node.op for node in graph.nodes.values()] == ["input", "constant", "cat"]
    kept = graph.nodes[1].attributes["value"]
    assert kept.dtype == graph.nodes[1].dtype == np.float32
    assert not kept.flags.writeable
    assert graph.nodes[graph.output].inputs == {"tensors[0]": 1, "tensors[1]": 0}


def test_arguments_of_two_kinds_are_refused():
    def both(x):
        trace(lambda y: F.add(y, x), SHAPE)
        return x

    with pytest.raises(TypeError, match="conversion to an array is not recorded"):
        convlane.vjp(both, CONSTANT)
