"""Compiled networks: traced into a graph, simplified by passes, lowered to one list of steps over one arena."""

from convlane.graph.plan import OpenPlan, Plan, compile, load_plan
from convlane.graph.trace import Graph, Node, trace

__all__ = ["Graph", "Node", "OpenPlan", "Plan", "compile", "load_plan", "trace"]
