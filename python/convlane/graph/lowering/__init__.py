"""What each operation becomes in a plan: one file per family, as in `convlane.functional`."""

from convlane.graph.lowering import conv, elementwise, linear, norm, pool, resize, shape  # noqa: F401  (they register)
from convlane.graph.lowering.context import LOWERINGS, REFUSALS, Choice, Context, lowers
from convlane.graph.lowering.operand import Operand, strides_of

__all__ = ["LOWERINGS", "REFUSALS", "Choice", "Context", "Operand", "lowers", "strides_of"]
