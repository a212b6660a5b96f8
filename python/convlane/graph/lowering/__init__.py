"""How each operation is lowered to steps of a plan: one file per family, as in `convlane.functional`."""

from convlane.graph.lowering import (  # noqa: F401  (they register)
    conv,
    conv_transpose,
    elementwise,
    linear,
    norm,
    pool,
    resize,
    shape,
    tensor,
    unfold,
)
from convlane.graph.lowering.context import ANY_ARGUMENT, LOWERINGS, REFUSALS, Choice, Context, OfBatch, lowers
from convlane.graph.lowering.operand import Operand, strides_of

__all__ = ["ANY_ARGUMENT", "LOWERINGS", "REFUSALS", "Choice", "Context", "OfBatch", "Operand", "lowers", "strides_of"]
