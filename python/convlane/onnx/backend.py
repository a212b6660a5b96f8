"""convlane as a backend of the package `onnx`, which tests backends: ``convlane.onnx.backend.prepare(model)``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from convlane.onnx._package import LoadError
from convlane.onnx.network import load_onnx
from convlane.onnx.runner import Runner
from convlane.onnx.session import as_declared

try:
    from onnx.backend import base
except ImportError:
    raise ImportError("convlane.onnx.backend needs the package onnx: pip install 'convlane[onnx]'") from None


class ConvlaneRep(base.BackendRep):  # type: ignore[misc, unused-ignore]
    """A network that is ready to run: compiled if `compiled` is true, else eager."""

    def __init__(self, model: Any, compiled: bool) -> None:
        self.network = load_onnx(model.SerializeToString())
        self.runner = Runner(self.network) if compiled else None

    def run(self, inputs: Any, **kwargs: Any) -> tuple[Any, ...]:
        """Return the outputs for inputs in order, or by name."""
        names = [info.name for info in self.network.inputs]
        given = inputs if isinstance(inputs, (list, tuple, dict)) else [inputs]
        feeds = given if isinstance(given, dict) else dict(zip(names, given, strict=True))
        if self.runner is not None:
            found = self.runner(feeds)
        else:
            result = self.network(**{name: np.asarray(value) for name, value in feeds.items()})
            found = result if isinstance(result, dict) else {self.network.outputs[0].name: result}
        return tuple(as_declared(found[info.name], info) for info in self.network.outputs)


class ConvlaneBackend(base.Backend):  # type: ignore[misc, unused-ignore]
    """The backend."""

    @classmethod
    def is_compatible(cls, model: Any, device: str = "CPU", **kwargs: Any) -> bool:
        """Return whether all nodes of a model can be computed."""
        try:
            load_onnx(model.SerializeToString())
        except LoadError:
            return False
        return cls.supports_device(device)

    @classmethod
    def prepare(cls, model: Any, device: str = "CPU", *, compiled: bool = True, **kwargs: Any) -> ConvlaneRep:
        """Return a model ready to run."""
        if not cls.supports_device(device):
            raise ValueError(f"convlane runs on the CPU, not on {device!r}")
        return ConvlaneRep(model, compiled)

    @classmethod
    def run_model(cls, model: Any, inputs: Sequence[Any], device: str = "CPU", **kwargs: Any) -> tuple[Any, ...]:
        """Run a model once."""
        return cls.prepare(model, device, **kwargs).run(inputs)

    @classmethod
    def supports_device(cls, device: str) -> bool:
        """Return whether networks run on a device."""
        return device.partition(":")[0] == "CPU"


is_compatible = ConvlaneBackend.is_compatible
prepare = ConvlaneBackend.prepare
run = ConvlaneBackend.run_model
supports_device = ConvlaneBackend.supports_device
