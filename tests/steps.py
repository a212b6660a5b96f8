"""Plans of one step, appended by hand."""

import convlane
from convlane import _core
from convlane.graph.lowering import Operand, strides_of


def operand(location, shape, offset=0):
    return Operand(location, 0, offset, tuple(shape), strides_of(tuple(shape)))


def typed(each):
    return each.dtype, each.shape, each.strides


def plan_of(op, shape, output_shape, *, staged=False, residual=False, weights=None, **attributes):
    """Return a plan of one step on images of a shape; with `staged`, they are copied into the arena first.

    With `residual` the images are also added to the result.
    """
    given, result, inside = operand("input", shape), operand("output", output_shape), operand("arena", shape)
    floats = given.strides[0] * shape[0]
    plan = _core.Plan([typed(given)], [typed(result)], 4 * floats, convlane.get_num_threads())
    if staged:
        plan.append("copy", [given.core()], [inside.core()])
    sources = [inside if staged else given, *([inside] if residual else [])]
    attributes = {name: value for name, value in attributes.items() if value is not None}
    weights = {name: weight for name, weight in (weights or {}).items() if weight is not None}
    plan.append(op, [each.core() for each in sources], [result.core()], attributes, weights)
    return plan


def run_step(op, x, output_shape, **options):
    """Run such a plan on images."""
    plan = plan_of(op, x.shape, output_shape, **options)
    output = _core.new_array(typed(operand("output", output_shape)))
    plan.run([x], [output], _core.PlanMemory())
    return output
