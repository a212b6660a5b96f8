"""Every example in a docstring runs, and everything public is documented; test_pages.py runs those of the pages."""

import doctest
import importlib
import pkgutil

import pytest

import convlane

MODULES = ["convlane", *(info.name for info in pkgutil.walk_packages(convlane.__path__, "convlane."))]
PUBLIC = [
    "convlane",
    "convlane.analysis",
    "convlane.analysis.draw",
    "convlane.data",
    "convlane.data.augment",
    "convlane.digits",
    "convlane.filters",
    "convlane.functional",
    "convlane.graph",
    "convlane.models",
    "convlane.nn",
    "convlane.scale",
    "convlane.training",
    "convlane.training.distributed",
    "convlane.vision",
    "convlane.weights",
]


def marked(name):
    """Return a module as a parameter, with the library that it needs."""
    return pytest.param(name, marks=pytest.mark.torch if name.startswith("convlane.bridges.torch") else ())


@pytest.mark.parametrize("name", [marked(name) for name in MODULES if name != "convlane._core"])
def test_examples(name):
    runner = doctest.DocTestRunner(optionflags=doctest.NORMALIZE_WHITESPACE)
    for examples in doctest.DocTestFinder().find(importlib.import_module(name)):
        runner.run(examples)
    assert runner.summarize(verbose=False).failed == 0


def test_examples_of_operations_are_found():
    # They are wrapped by a decorator from another module, where a finder may look for them.
    found = doctest.DocTestFinder(exclude_empty=True).find(importlib.import_module("convlane.functional.conv"))
    assert any(test.name.endswith(".conv2d") and test.examples for test in found)


@pytest.mark.parametrize("name", PUBLIC)
def test_public_names_are_documented(name):
    module = importlib.import_module(name)
    undocumented = [public for public in module.__all__ if not getattr(module, public).__doc__]
    assert not undocumented
