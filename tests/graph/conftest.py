"""For all tests of graphs: check that each pass leaves the graph well-typed."""

import functools

import pytest

from convlane.graph import passes
from convlane.graph.verify import verify


def _verified(optimization):
    @functools.wraps(optimization)
    def run(graph):
        result = optimization(graph)
        if not _is_well_typed(graph):  # some tests trace networks that could not be saved
            return result
        try:
            verify(result)
        except (TypeError, ValueError) as error:
            pytest.fail(f"after {optimization.__name__}: {error}\n{result}")
        return result

    return run


def _is_well_typed(graph):
    try:
        verify(graph)
    except (TypeError, ValueError):
        return False
    return True


@pytest.fixture(autouse=True)
def well_typed_passes(monkeypatch):
    monkeypatch.setattr(passes, "PASSES", tuple(map(_verified, passes.PASSES)))
