"""Shapes that tests and benchmarks share."""
