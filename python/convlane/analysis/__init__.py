"""What can be said of a network without running it."""

from convlane.analysis import cost
from convlane.analysis.cost import multiply_adds
from convlane.analysis.summary import Row, Summary, summary

__all__ = ["Row", "Summary", "cost", "multiply_adds", "summary"]
