"""The package `onnx`, an optional extra that is imported when a file is read, and errors of loading."""

from __future__ import annotations

import importlib
from typing import Any


class LoadError(ValueError):
    """A file that is damaged or dangerous, or contains something that convlane cannot compute."""


def require_onnx() -> Any:
    """Return the package `onnx`."""
    try:
        return importlib.import_module("onnx")
    except ImportError:
        raise ImportError("ONNX files need the package onnx: pip install 'convlane[onnx]' installs it") from None
