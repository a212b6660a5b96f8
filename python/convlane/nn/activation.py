"""Activations, softmax, dropout and flattening; of these layers only `PReLU` has a parameter."""

from __future__ import annotations

from typing import Any

import numpy as np

from convlane import functional as F
from convlane.functional._arguments import Array, as_float, as_positive, shape_of
from convlane.nn.init import constant
from convlane.nn.module import Module


class Identity(Module):
    """Return the input; as a branch of `Add`, this is the shortcut of a residual block."""

    def forward(self, input: Any) -> Any:
        """Return the input itself."""
        return input


class ReLU(Module):
    """``max(x, 0)``."""

    def forward(self, input: Array) -> Array:
        """Apply the function to every element."""
        return F.relu(input)


class ReLU6(Module):
    """``min(max(x, 0), 6)``."""

    def forward(self, input: Array) -> Array:
        """Apply the function to every element."""
        return F.relu6(input)


class LeakyReLU(Module):
    """``x`` where it is positive, ``negative_slope * x`` elsewhere."""

    def __init__(self, negative_slope: float = 0.01) -> None:
        self.negative_slope = negative_slope

    def forward(self, input: Array) -> Array:
        """Apply the function to every element."""
        return F.leaky_relu(input, self.negative_slope)

    def extra_repr(self) -> str:
        """Return the constructor's arguments."""
        return f"negative_slope={self.negative_slope}"


class SiLU(Module):
    """``x * sigmoid(x)``."""

    def forward(self, input: Array) -> Array:
        """Apply the function to every element."""
        return F.silu(input)


class GELU(Module):
    """``x`` times the normal distribution function of x; ``approximate="tanh"`` uses an approximation."""

    def __init__(self, approximate: str = "none") -> None:
        self.approximate = approximate

    def forward(self, input: Array) -> Array:
        """Apply the function to every element."""
        return F.gelu(input, approximate=self.approximate)

    def extra_repr(self) -> str:
        """Return the constructor's arguments."""
        return f"approximate={self.approximate!r}"


class PReLU(Module):
    """``x`` where it is positive, a learned slope times ``x`` elsewhere; see `convlane.functional.prelu`.

    Parameters
    ----------
    num_parameters
        1, or C for one slope per channel.
    init
        The initial value of the slopes.

    Examples
    --------
    >>> import numpy as np
    >>> from convlane import nn
    >>> nn.PReLU()(np.array([-4, 4], np.float32))
    array([-1.,  4.], dtype=float32)
    """

    weight: Array

    def __init__(self, num_parameters: int = 1, init: float = 0.25) -> None:
        count = as_positive(num_parameters, "PReLU", "num_parameters")
        self.init = as_float(init, "PReLU", "init")
        self.register_parameter("weight", constant((count,), self.init))

    def forward(self, input: Array) -> Array:
        """Apply the function to every element."""
        return F.prelu(input, self.weight)

    def extra_repr(self) -> str:
        """Return the constructor's arguments."""
        return f"num_parameters={self.weight.size}"


class ELU(Module):
    """``x`` where it is positive, ``alpha * (exp(x) - 1)`` elsewhere."""

    def __init__(self, alpha: float = 1.0) -> None:
        self.alpha = alpha

    def forward(self, input: Array) -> Array:
        """Apply the function to every element."""
        return F.elu(input, self.alpha)

    def extra_repr(self) -> str:
        """Return the constructor's arguments."""
        return f"alpha={self.alpha}"


class CELU(Module):
    """``x`` where it is positive, ``alpha * (exp(x / alpha) - 1)`` elsewhere."""

    def __init__(self, alpha: float = 1.0) -> None:
        self.alpha = alpha

    def forward(self, input: Array) -> Array:
        """Apply the function to every element."""
        return F.celu(input, self.alpha)

    def extra_repr(self) -> str:
        """Return the constructor's arguments."""
        return f"alpha={self.alpha}"


class SELU(Module):
    """`ELU` with the factors that keep mean 0 and variance 1 from layer to layer."""

    def forward(self, input: Array) -> Array:
        """Apply the function to every element."""
        return F.selu(input)


class Mish(Module):
    """``x * tanh(log(1 + exp(x)))``."""

    def forward(self, input: Array) -> Array:
        """Apply the function to every element."""
        return F.mish(input)


class Softplus(Module):
    """``log(1 + exp(beta * x)) / beta``, but x itself where ``beta * x`` is above `threshold`."""

    def __init__(self, beta: float = 1.0, threshold: float = 20.0) -> None:
        self.beta, self.threshold = beta, threshold

    def forward(self, input: Array) -> Array:
        """Apply the function to every element."""
        return F.softplus(input, self.beta, self.threshold)

    def extra_repr(self) -> str:
        """Return the constructor's arguments."""
        return f"beta={self.beta}, threshold={self.threshold}"


class Softsign(Module):
    """``x / (1 + abs(x))``."""

    def forward(self, input: Array) -> Array:
        """Apply the function to every element."""
        return F.softsign(input)


class LogSigmoid(Module):
    """Logarithm of the sigmoid."""

    def forward(self, input: Array) -> Array:
        """Apply the function to every element."""
        return F.logsigmoid(input)


class Hardtanh(Module):
    """``min(max(x, min_val), max_val)``."""

    def __init__(self, min_val: float = -1.0, max_val: float = 1.0) -> None:
        self.min_val, self.max_val = (
            as_float(value, "Hardtanh", name) for name, value in (("min_val", min_val), ("max_val", max_val))
        )
        if not self.min_val < self.max_val:
            raise ValueError(f"Hardtanh: min_val must be below max_val, got {min_val} and {max_val}")

    def forward(self, input: Array) -> Array:
        """Apply the function to every element."""
        return F.hardtanh(input, self.min_val, self.max_val)

    def extra_repr(self) -> str:
        """Return the constructor's arguments."""
        return f"min_val={self.min_val}, max_val={self.max_val}"


class Threshold(Module):
    """``x`` where it is above a threshold, a value elsewhere."""

    def __init__(self, threshold: float, value: float) -> None:
        self.threshold, self.value = threshold, value

    def forward(self, input: Array) -> Array:
        """Apply the function to every element."""
        return F.threshold(input, self.threshold, self.value)

    def extra_repr(self) -> str:
        """Return the constructor's arguments."""
        return f"threshold={self.threshold}, value={self.value}"


class GLU(Module):
    """The first half along a dimension times the sigmoid of the second."""

    def __init__(self, dim: int = -1) -> None:
        self.dim = dim

    def forward(self, input: Array) -> Array:
        """Halve the dimension."""
        return F.glu(input, self.dim)

    def extra_repr(self) -> str:
        """Return the constructor's arguments."""
        return f"dim={self.dim}"


class Hardswish(Module):
    """``x * min(max(x + 3, 0), 6) / 6``."""

    def forward(self, input: Array) -> Array:
        """Apply the function to every element."""
        return F.hardswish(input)


class Hardsigmoid(Module):
    """``min(max(x + 3, 0), 6) / 6``."""

    def forward(self, input: Array) -> Array:
        """Apply the function to every element."""
        return F.hardsigmoid(input)


class Sigmoid(Module):
    """``1 / (1 + exp(-x))``."""

    def forward(self, input: Array) -> Array:
        """Apply the function to every element."""
        return F.sigmoid(input)


class Tanh(Module):
    """Hyperbolic tangent."""

    def forward(self, input: Array) -> Array:
        """Apply the function to every element."""
        return F.tanh(input)


class Softmax(Module):
    """Exponentials that sum to 1 along `dim`."""

    def __init__(self, dim: int) -> None:
        self.dim = dim

    def forward(self, input: Array) -> Array:
        """Apply the function along the dimension."""
        return F.softmax(input, self.dim)

    def extra_repr(self) -> str:
        """Return the constructor's arguments."""
        return f"dim={self.dim}"


class LogSoftmax(Module):
    """Logarithm of the softmax along `dim`."""

    def __init__(self, dim: int) -> None:
        self.dim = dim

    def forward(self, input: Array) -> Array:
        """Apply the function along the dimension."""
        return F.log_softmax(input, self.dim)

    def extra_repr(self) -> str:
        """Return the constructor's arguments."""
        return f"dim={self.dim}"


class Dropout(Module):
    """In training mode, zero elements with probability `p` and scale the others by ``1 / (1 - p)``."""

    def __init__(self, p: float = 0.5) -> None:
        if not 0 <= as_float(p, "Dropout", "p") <= 1:
            raise ValueError(f"Dropout: p must be between 0 and 1, got {p}")
        self.p = p

    def forward(self, input: Array) -> Array:
        """Drop elements; in eval mode return the input as it is."""
        return F.dropout(input, self.p, self.training)

    def extra_repr(self) -> str:
        """Return the constructor's arguments."""
        return f"p={self.p}"


class StochasticDepth(Module):
    """In training mode, zero whole images with probability `p` and scale the others by ``1 / (1 - p)``.

    At the end of a residual branch, it leaves only the shortcut for some images (Huang et al. 2016). It corresponds to
    torchvision's mode ``"row"``.

    Examples
    --------
    >>> import numpy as np
    >>> from convlane import nn
    >>> images = nn.StochasticDepth(0.5)(np.ones((100, 1, 1, 2), np.float32))
    >>> {tuple(image.ravel().tolist()) for image in images} == {(0.0, 0.0), (2.0, 2.0)}
    True
    """

    def __init__(self, p: float) -> None:
        if not 0 <= as_float(p, "StochasticDepth", "p") <= 1:
            raise ValueError(f"StochasticDepth: p must be between 0 and 1, got {p}")
        self.p = p

    def forward(self, input: Array) -> Array:
        """Drop images of (N, C, H, W); in eval mode return the input as it is."""
        if not self.training or self.p == 0:
            return input
        shape = shape_of(input, "StochasticDepth")
        if len(shape) != 4:
            raise ValueError(f"StochasticDepth: input must be (N, C, H, W), got shape {shape}")
        count, channels = shape[:2]
        factors = F.dropout(np.ones((count, 1), np.float32), self.p)
        return F.scale(input, np.repeat(factors, channels, axis=1))

    def extra_repr(self) -> str:
        """Return the constructor's arguments."""
        return f"p={self.p}"


class Flatten(Module):
    """Flatten the dimensions from `start_dim` on into one, in the order of (N, C, H, W)."""

    def __init__(self, start_dim: int = 1) -> None:
        self.start_dim = start_dim

    def forward(self, input: Array) -> Array:
        """Return (N, C * H * W) for images."""
        return F.flatten(input, self.start_dim)

    def extra_repr(self) -> str:
        """Return the constructor's arguments."""
        return f"start_dim={self.start_dim}"
