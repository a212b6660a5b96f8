"""Operations on arrays, with torch's names and argument order.

Each family has one file that holds, for every operation, its argument checks, its cost and its call into the kernels.
"""

from convlane.functional.conv import conv2d, explain, pack_conv2d
from convlane.functional.linear import linear, pack_linear

__all__ = ["conv2d", "explain", "linear", "pack_conv2d", "pack_linear"]
