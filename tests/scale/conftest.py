"""Inputs of workers: a saved plan, and a folder of pictures."""

import pytest

import pictures


@pytest.fixture
def plan(tmp_path):
    pictures.save_plan(tmp_path / "plan")
    return tmp_path / "plan"


@pytest.fixture
def folder(tmp_path):
    pictures.write_pictures(tmp_path / "pictures")
    return tmp_path / "pictures"
