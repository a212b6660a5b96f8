"""Weights in the HDF5 files of Keras, under the names that convlane's networks give them.

Only arrays of numbers are read, along hard links within the file: configurations, which describe programs, are not
looked at, and links, external storage and virtual datasets, which lead out of the file, are refused.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from convlane.safetensors_file import shown

Layers: TypeAlias = dict[str, list[NDArray[Any]]]
"""The arrays of every layer that has some, in Keras's order, by the layer's name."""

_MOST_GROWTH = 20  # times its file that what it describes may take, as in archives
_ALWAYS_ALLOWED = 2**26  # bytes
_MOST_LAYERS = 10_000
_COMPRESSIONS = (None, "gzip", "lzf")  # others need programs that HDF5 looks for and loads


def read_keras(path: str) -> dict[str, NDArray[Any]]:
    """Return the weights in a file, mapped; ValueError tells what is wrong.

    Raises
    ------
    ImportError
        h5py is not installed.
    """
    try:
        import h5py
    except ImportError as error:
        raise ImportError(f"{path}: reading HDF5 files needs h5py; pip install 'convlane[keras]'") from error
    with _damage(), h5py.File(path, "r") as file:
        layers = _File(file, os.path.getsize(path), h5py).layers()
    return map_layers(layers)


class _File:
    """An open HDF5 file, of which nothing is trusted."""

    def __init__(self, file: Any, size: int, h5py: Any) -> None:
        self._file, self._size, self._h5py, self._left = file, size, h5py, max(_ALWAYS_ALLOWED, _MOST_GROWTH * size)

    def layers(self) -> Layers:
        """Return all layers, whether Keras 3 has written them or an older one."""
        if "layers" in self._file:
            return self._new_layers()
        root = self._group(self._file, "model_weights") if "model_weights" in self._file else self._file
        layers: Layers = {}
        for name in self._names(root, "layer_names"):
            group = self._group(root, name)
            arrays = [self._array(group, weight) for weight in self._names(group, "weight_names")]
            if arrays:
                _add(layers, name, arrays)
        return layers

    def _new_layers(self) -> Layers:
        layers: Layers = {}
        for key in _few(self._group(self._file, "layers")):
            group = self._group(self._file, f"layers/{key}")
            variables = self._group(group, "vars") if "vars" in group else None
            if variables is not None and len(variables) > 0:
                name = variables.attrs.get("name", key)
                arrays = [self._array(variables, str(i)) for i in range(len(variables))]
                _add(layers, name if isinstance(name, str) else key, arrays)
        return layers

    def _names(self, group: Any, attribute: str) -> list[str]:
        """Return the names in an attribute, which Keras splits where it is large."""
        parts = [attribute] if attribute in group.attrs else []
        while not parts or parts[0] != attribute:
            if f"{attribute}{len(parts)}" not in group.attrs:
                break
            parts.append(f"{attribute}{len(parts)}")
        if not parts:
            raise ValueError(f"it is no file of weights of Keras: {shown(group.name)} has no {attribute}")
        names = [name for part in parts for name in np.atleast_1d(group.attrs[part]).ravel().tolist()]
        return [name.decode() if isinstance(name, bytes) else str(name) for name in _few(names)]

    def _walk(self, group: Any, path: str) -> Any:
        """Return what stands at a path, which leads along hard links alone."""
        for part in path.split("/"):
            if not isinstance(group, self._h5py.Group):
                raise ValueError(f"it has no {shown(path)}")
            link = group.get(part, getlink=True) if part else None
            if link is None:
                raise ValueError(f"it has no {shown(path)}")
            if not isinstance(link, self._h5py.HardLink):
                raise ValueError(f"{shown(path)} is a link, which may lead out of the file")
            group = group[part]
        return group

    def _group(self, parent: Any, path: str) -> Any:
        group = self._walk(parent, path)
        if not isinstance(group, self._h5py.Group):
            raise ValueError(f"{shown(path)} is no group")
        return group

    def _array(self, parent: Any, path: str) -> NDArray[Any]:
        dataset = self._walk(parent, path)
        name = shown(path)
        if not isinstance(dataset, self._h5py.Dataset) or dataset.shape is None:
            raise ValueError(f"{name} is no array")
        if dataset.is_virtual or dataset.external:
            raise ValueError(f"{name} has its numbers in another file")
        if dataset.compression not in _COMPRESSIONS:
            raise ValueError(f"{name} is compressed by {shown(dataset.compression)}, not by gzip or lzf")
        if dataset.dtype.kind not in "fiu":
            raise ValueError(f"{name} holds {dataset.dtype}, not numbers")
        self._left -= math.prod(dataset.shape) * dataset.dtype.itemsize
        if self._left < 0:
            most = max(_ALWAYS_ALLOWED, _MOST_GROWTH * self._size)
            raise ValueError(f"its {self._size} bytes describe more than {most} bytes of content")
        array: NDArray[Any] = dataset[()]
        return np.asarray(array)


def map_layers(layers: Layers) -> dict[str, NDArray[Any]]:
    """Return the arrays of one of the networks that are known, under the names of convlane's."""
    for architecture, (tells, rule) in _ARCHITECTURES.items():
        if tells in layers or any(re.fullmatch(tells, name) for name in layers):
            try:
                return rule(layers)
            except (KeyError, IndexError, ValueError) as error:
                raise ValueError(f"its layers are not those of {architecture}: {error}") from error
    raise ValueError(
        f"its layers are those of no network that convlane knows ({', '.join(_ARCHITECTURES)}): {shown(sorted(layers))}"
    )


class _State:
    """A state dict that is being made of layers."""

    def __init__(self, layers: Layers) -> None:
        self._layers = dict(layers)
        self.arrays: dict[str, NDArray[Any]] = {}

    def __contains__(self, name: str) -> bool:
        return name in self._layers

    def _take(self, name: str, *counts: int) -> list[NDArray[Any]]:
        if name not in self._layers:
            raise ValueError(f"there is no layer {shown(name)}")
        arrays = self._layers.pop(name)
        if len(arrays) not in counts:
            raise ValueError(f"layer {shown(name)} has {len(arrays)} arrays")
        return arrays

    def conv(self, name: str, key: str, *, depthwise: bool = False) -> NDArray[Any] | None:
        """Take a convolution, (height, width, in, out), or (height, width, channels, 1); return its bias."""
        kernel, *bias = self._take(name, 1, 2)
        if kernel.ndim != 4:
            raise ValueError(f"layer {shown(name)} has a kernel of shape {kernel.shape}")
        self.arrays[f"{key}.weight"] = kernel.transpose((2, 3, 0, 1) if depthwise else (3, 2, 0, 1))
        return bias[0] if bias else None

    def conv_with_bias(self, name: str, key: str) -> None:
        """Take a convolution whose bias is kept."""
        bias = self.conv(name, key)
        if bias is None:
            raise ValueError(f"layer {shown(name)} has no bias")
        self.arrays[f"{key}.bias"] = bias

    def norm(self, name: str, key: str, bias: NDArray[Any] | None = None) -> None:
        """Take a batch norm, whose scale may be missing; a bias of the convolution before goes into the mean."""
        *scale, shift, mean, variance = self._take(name, 3, 4)
        self.arrays[f"{key}.weight"] = scale[0] if scale else np.ones_like(shift)
        self.arrays[f"{key}.bias"] = shift
        self.arrays[f"{key}.running_mean"] = mean if bias is None else mean - bias
        self.arrays[f"{key}.running_var"] = variance

    def block(self, name: str, norm: str, key: str, *, depthwise: bool = False) -> None:
        """Take a convolution and the batch norm after it, which stand in a sequence."""
        self.norm(norm, f"{key}.1", self.conv(name, f"{key}.0", depthwise=depthwise))

    def dense(self, name: str, key: str, image: tuple[int, int, int] | None = None) -> None:
        """Take a linear layer, (in, out); `image` is the height, width and channels that it reads flattened."""
        kernel, bias = self._take(name, 2)
        if image is not None:
            kernel = kernel.reshape(*image, -1).transpose(2, 0, 1, 3)
        self.arrays[f"{key}.weight"] = kernel.reshape(-1, kernel.shape[-1]).T
        self.arrays[f"{key}.bias"] = bias

    def finished(self, *unused: str) -> dict[str, NDArray[Any]]:
        """Return the arrays, if no layer but those that are not used is left."""
        if left := sorted(self._layers.keys() - set(unused)):
            raise ValueError(f"layer {shown(left[0])} is one too many")
        return self.arrays


def _vgg(layers: Layers) -> dict[str, NDArray[Any]]:
    state, place = _State(layers), 0
    for block in range(1, 6):
        conv = 1
        while (name := f"block{block}_conv{conv}") in state:
            state.conv_with_bias(name, f"features.{place}")
            conv, place = conv + 1, place + 2
        place += 1  # the pooling
    if "fc1" in state:
        state.dense("fc1", "classifier.0", image=(7, 7, 512))
        state.dense("fc2", "classifier.3")
        state.dense("predictions", "classifier.6")
    return state.finished()


def _resnet(layers: Layers) -> dict[str, NDArray[Any]]:
    state = _State(layers)
    state.norm("conv1_bn", "bn1", state.conv("conv1_conv", "conv1"))
    for stage in range(2, 6):
        block = 1
        while (name := f"conv{stage}_block{block}") + "_1_conv" in state:
            key = f"layer{stage - 1}.{block - 1}"
            for i in (1, 2, 3):
                state.norm(f"{name}_{i}_bn", f"{key}.bn{i}", state.conv(f"{name}_{i}_conv", f"{key}.conv{i}"))
            if f"{name}_0_conv" in state:
                state.block(f"{name}_0_conv", f"{name}_0_bn", f"{key}.downsample")
            block += 1
    return _with_head(state, "fc")


def _inception_v3(layers: Layers) -> dict[str, NDArray[Any]]:
    from convlane import nn  # which needs this package
    from convlane.models.inception_v3 import InceptionV3

    state = _State(layers)
    with nn.init.skip():
        network = InceptionV3(0)
    keys = [path.removesuffix(".conv") for path, module in network.named_modules() if isinstance(module, nn.Conv2d)]
    convs, norms = (sorted(_numbered(layers, kind), key=_number) for kind in ("conv2d", "batch_normalization"))
    for conv, norm, key in zip(convs, norms, keys, strict=True):
        state.norm(norm, f"{key}.bn", state.conv(conv, f"{key}.conv"))
    return _with_head(state, "fc")


def _mobilenet_v1(layers: Layers) -> dict[str, NDArray[Any]]:
    state = _State(layers)
    state.block("conv1", "conv1_bn", "features.0")
    for i in range(1, 14):
        state.block(f"conv_dw_{i}", f"conv_dw_{i}_bn", f"features.{i}.0", depthwise=True)
        state.block(f"conv_pw_{i}", f"conv_pw_{i}_bn", f"features.{i}.1")
    if "conv_preds" in state:
        state.conv_with_bias("conv_preds", "classifier.1")
        weight = state.arrays["classifier.1.weight"]
        state.arrays["classifier.1.weight"] = weight.reshape(weight.shape[:2])
    return state.finished()


def _mobilenet_v2(layers: Layers) -> dict[str, NDArray[Any]]:
    state = _State(layers)
    state.block("Conv1", "bn_Conv1", "features.0")
    for i in range(17):
        name, key = f"block_{i}" if i else "expanded_conv", f"features.{i + 1}.conv"
        place = 0
        if i:
            state.block(f"{name}_expand", f"{name}_expand_BN", f"{key}.0")
            place = 1
        state.block(f"{name}_depthwise", f"{name}_depthwise_BN", f"{key}.{place}", depthwise=True)
        state.norm(f"{name}_project_BN", f"{key}.{place + 2}", state.conv(f"{name}_project", f"{key}.{place + 1}"))
    state.block("Conv_1", "Conv_1_bn", "features.18")
    return _with_head(state, "classifier.1")


def _efficientnet(layers: Layers) -> dict[str, NDArray[Any]]:
    state = _State(layers)
    state.block("stem_conv", "stem_bn", "features.0")
    for stage in range(1, 8):
        i = 0
        while (name := f"block{stage}{chr(ord('a') + i)}") + "_dwconv" in state:
            key, place = f"features.{stage}.{i}.block", 0
            if stage > 1:
                state.block(f"{name}_expand_conv", f"{name}_expand_bn", f"{key}.0")
                place = 1
            state.block(f"{name}_dwconv", f"{name}_bn", f"{key}.{place}", depthwise=True)
            state.conv_with_bias(f"{name}_se_reduce", f"{key}.{place + 1}.fc1")
            state.conv_with_bias(f"{name}_se_expand", f"{key}.{place + 1}.fc2")
            state.block(f"{name}_project_conv", f"{name}_project_bn", f"{key}.{place + 2}")
            i += 1
    state.block("top_conv", "top_bn", "features.8")
    return _with_head(state, "classifier.1", *_numbered(layers, "normalization"))


def _with_head(state: _State, key: str, *unused: str) -> dict[str, NDArray[Any]]:
    if "predictions" in state:
        state.dense("predictions", key)
    return state.finished(*unused)


# What each network has and no other, and its rule.
_ARCHITECTURES: Mapping[str, tuple[str, Callable[[Layers], dict[str, NDArray[Any]]]]] = {
    "VGG16": ("block1_conv1", _vgg),
    "ResNet50": ("conv2_block1_1_conv", _resnet),
    "MobileNet": ("conv_dw_1", _mobilenet_v1),
    "MobileNetV2": ("expanded_conv_depthwise", _mobilenet_v2),
    "EfficientNetB0": ("block1a_dwconv", _efficientnet),
    "InceptionV3": (r"conv2d(_\d+)?", _inception_v3),
}


def _add(layers: Layers, name: str, arrays: list[NDArray[Any]]) -> None:
    if name in layers:
        raise ValueError(f"the layer {shown(name)} comes twice")
    layers[name] = arrays


def _few(names: Sequence[Any]) -> Iterator[Any]:
    if len(names) > _MOST_LAYERS:
        raise ValueError(f"it has {len(names)} names in one place; at most {_MOST_LAYERS} are allowed")
    return iter(names)


def _numbered(layers: Layers, kind: str) -> list[str]:
    """Return the layers that Keras has named by their kind and a number."""
    return [name for name in layers if re.fullmatch(rf"{kind}(_\d+)?", name)]


def _number(name: str) -> int:
    number = name.rpartition("_")[2]
    return int(number) if number.isdecimal() else 0


@contextmanager
def _damage() -> Iterator[None]:
    """Turn what HDF5 finds wrong with a file into a ValueError."""
    try:
        yield
    except (OSError, KeyError, RuntimeError, TypeError, UnicodeError, OverflowError, SystemError) as error:
        raise ValueError(f"it is damaged: {error}") from error
