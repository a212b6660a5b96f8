"""Choices between graphs."""

from __future__ import annotations

from typing import Any

from convlane.onnx.registry import Call, converts
from convlane.onnx.values import known


@converts("If")
def _if(call: Call, condition: Any) -> Any:
    chosen = known(condition, "its condition").reshape(-1)
    return call.run(call.get("then_branch" if bool(chosen[0]) else "else_branch"))
