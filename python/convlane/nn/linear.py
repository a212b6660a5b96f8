"""The fully connected layer."""

from __future__ import annotations

from convlane import _core
from convlane.functional import linear, pack_linear
from convlane.functional._arguments import Array, as_positive
from convlane.nn.init import default_weight_and_bias
from convlane.nn.packing import PackingModule


class Linear(PackingModule):
    """``input @ weight.T + bias`` with a learned weight (out_features, in_features) and bias.

    Examples
    --------
    >>> import numpy as np
    >>> from convlane import nn
    >>> layer = nn.Linear(4, 2)
    >>> layer(np.zeros((3, 4), np.float32)).shape
    (3, 2)
    >>> layer
    Linear(in_features=4, out_features=2, bias=True)
    """

    bias: Array | None

    def __init__(self, in_features: int, out_features: int, bias: bool = True) -> None:
        self.in_features = as_positive(in_features, "Linear", "in_features")
        self.out_features = as_positive(out_features, "Linear", "out_features")
        weight, bias_array = default_weight_and_bias((self.out_features, self.in_features), bias)
        self.register_parameter("weight", weight)
        self.register_parameter("bias", bias_array)

    def pack(self, weight: Array) -> _core.PackedWeight:
        """Pack a weight for this layer."""
        return pack_linear(weight)

    def forward(self, input: Array) -> Array:
        """Map arrays (..., in_features) to (..., out_features)."""
        return linear(input, self.weight_for(input), self.bias)

    def extra_repr(self) -> str:
        """Return the constructor's arguments."""
        return f"in_features={self.in_features}, out_features={self.out_features}, bias={self.bias is not None}"
