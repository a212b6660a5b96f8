"""The package `onnx`, which reads the files: an extra that is imported where a file is read, and errors of loading."""

from __future__ import annotations

import importlib
from typing import Any


class LoadError(ValueError):
    """A file that is damaged, dangerous, or asks for what there is no way to compute."""


def require_onnx() -> Any:
    """Return the package `onnx`."""
    try:
        return importlib.import_module("onnx")
    except ImportError:
        raise ImportError("ONNX files need the package onnx: pip install 'convlane[onnx]' brings it") from None
