"""What can be said of a network without running it."""

from convlane.analysis.cost import multiply_adds

__all__ = ["multiply_adds"]
