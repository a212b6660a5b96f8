"""Analysis of networks without running them, and pictures of how they work."""

from convlane.analysis import cost, draw
from convlane.analysis.cost import multiply_adds
from convlane.analysis.coverage import Coverage, coverage
from convlane.analysis.page import page
from convlane.analysis.receptive_field import Field, ReceptiveFields, receptive_field
from convlane.analysis.summary import Row, Summary, summary
from convlane.analysis.visualise import feature_maps, filters, maximise

__all__ = [
    "Coverage",
    "Field",
    "ReceptiveFields",
    "Row",
    "Summary",
    "cost",
    "coverage",
    "draw",
    "feature_maps",
    "filters",
    "maximise",
    "multiply_adds",
    "page",
    "receptive_field",
    "summary",
]
