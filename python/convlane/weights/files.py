"""Files of weights of convlane and other libraries, recognised by their first bytes."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any, BinaryIO, NoReturn

import numpy as np
from numpy.typing import NDArray

from convlane._files import open_regular
from convlane._hooks import hooks
from convlane.safetensors_file import Path, open_tensors, shown, write_tensors

_ZIP = (b"PK\3\4", b"PK\5\6")
CHECKPOINT = "convlane checkpoint"
"""The format in the metadata of a checkpoint of `convlane.training`; the network's weights are under ``model.``"""

_HDF5 = b"\x89HDF\r\n\x1a\n"
_HEADER_LENGTH = 8  # bytes of safetensors before its header, which begins with a brace
# Prefixes that DataParallel and AveragedModel (which adds a counter), and torch.compile, put before all names.
_MODULE = "module."
_PREFIXES = (_MODULE, "_orig_mod.")
_AVERAGED = "n_averaged"
# Formats that are known but not read, and what to do about them.
_NOT_READ = {
    b"\x93NUMPY": "a single array; numpy.savez writes arrays under names",
    b"\x80": "a Python pickle, which could do anything when it is loaded and is never read",
    b"version https://git-lfs": "a pointer of Git LFS; git lfs pull fetches the file itself",
}


def load_weights(path: Path) -> dict[str, NDArray[Any]]:
    """Read the weights in a file, for ``load_state_dict``.

    The format is recognised by the content, not by the name:

    - safetensors;
    - ``.npz`` of NumPy, with plain numbers only;
    - ``.pth`` or ``.pt`` of torch, even from before its version 1.6: a dictionary of tensors as
      ``torch.save(model.state_dict(), path)`` writes it, or a checkpoint that holds one as ``state_dict``,
      ``model_state_dict`` or ``model``. Neither torch nor pickle is used: the pickle is interpreted by a list of what
      is allowed, and nothing is executed. Anything else in it that torch's own safe loader takes, such as schedulers
      and optimisers, is skipped.
    - ``.h5`` and ``.weights.h5`` of Keras, if h5py is installed (``pip install 'convlane[keras]'``): the weights of
      VGG16, ResNet50, InceptionV3, MobileNet, MobileNetV2 and EfficientNetB0, under the names and in the order that
      convlane's networks have. See Notes.

    If every name begins with ``module.`` (DataParallel), ``_orig_mod.`` (torch.compile) or both, these are dropped, as
    is the ``n_averaged`` of an AveragedModel; names in files that convlane has written are kept as they are. From a
    checkpoint of `convlane.training` the network's weights are returned.

    A file of unknown origin does no harm, and takes no more memory than 64 MiB or 20 times its size.

    Parameters
    ----------
    path
        The file.

    Returns
    -------
    dict
        Names to read-only arrays, which a network that loads them shares. All floating-point types, bfloat16 included,
        are converted to float32; integers and booleans stay as they are.

    Raises
    ------
    OSError
        The file cannot be opened or read.
    ImportError
        It is a file of Keras, and h5py is not installed.
    ValueError
        It is damaged, of another kind, or holds something else; the message names the file and says what is wrong.

    Notes
    -----
    Keras's networks differ from torchvision's in more than their weights: in the padding of strided convolutions, which
    TensorFlow puts on one side, the epsilon of batch norm, the stride of ResNet's blocks and the pixels that
    Inception's averages count. ``models.create(name, weights="file.h5")`` builds the network accordingly, as
    ``keras=True`` does without a file. It returns logits, to which Keras applies a softmax.

    Keras's images are scaled differently, too, for each network as ``convlane.data.preprocessing(name, "keras")`` does:
    VGG16 and ResNet50 take BGR from 0 to 255 less (103.939, 116.779, 123.68), InceptionV3, MobileNet and MobileNetV2
    ``x / 127.5 - 1``, and EfficientNetB0, where Keras's own network begins with it, ``(x / 255 - mean) / deviation`` of
    ImageNet.

    Examples
    --------
    >>> import os, tempfile
    >>> import numpy as np, convlane
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = os.path.join(folder, "weights.npz")
    ...     np.savez(path, weight=np.ones((2, 3)), bias=np.zeros(2, np.float16))
    ...     weights = convlane.load_weights(path)
    >>> {name: (array.shape, array.dtype.name) for name, array in weights.items()}
    {'weight': ((2, 3), 'float32'), 'bias': ((2,), 'float32')}
    >>> layer = convlane.nn.Linear(3, 2)
    >>> layer.load_state_dict(weights)
    IncompatibleKeys(missing_keys=[], unexpected_keys=[])
    """
    path = os.fspath(path)
    with open_regular(path) as stream:
        start = stream.read(32)
        if start[_HEADER_LENGTH : _HEADER_LENGTH + 1] == b"{":
            return _read_safetensors(path)
        stream.seek(0)
        try:
            arrays = _read_keras(path) if start.startswith(_HDF5) else _read_zip(stream, start)
            return _unwrapped({name: as_weight(name, arrays.pop(name)) for name in list(arrays)})
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from error


def save_weights(path: Path, weights: Mapping[str, Any]) -> None:
    """Write arrays under names, such as a state dict, to a safetensors file.

    The file is written atomically: an existing one is replaced only when the new one is complete.

    Parameters
    ----------
    path
        The file to write; a symbolic link is followed.
    weights
        Names to arrays, of any strides.

    Raises
    ------
    OSError
        It cannot be written. Nothing is left behind then.
    TypeError
        An array has a type that safetensors does not have.

    Examples
    --------
    >>> import os, tempfile
    >>> import convlane
    >>> layer = convlane.nn.Linear(3, 2)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = os.path.join(folder, "layer.safetensors")
    ...     convlane.save_weights(path, layer.state_dict())
    ...     weights = convlane.load_weights(path)
    >>> bool((weights["weight"] == layer.weight).all())
    True
    """
    write_tensors(path, {name: np.asarray(array) for name, array in weights.items()})


def as_weight(name: str, array: NDArray[Any]) -> NDArray[Any]:
    """Return the array as `load_weights` does: float32 if it is floating-point, read-only and owning its memory."""
    dtype = np.dtype(np.float32) if array.dtype.kind == "f" else array.dtype.newbyteorder("=")
    try:
        with np.errstate(over="raise", under="ignore", invalid="ignore"):
            array = np.asarray(array.astype(dtype, order="C", copy=False))  # NumPy turns 0-d arrays into scalars
    except FloatingPointError:
        raise ValueError(f"the array {shown(name)} has numbers that float32 cannot hold") from None
    if not array.flags.owndata:
        array = array.copy()
    array.flags.writeable = False
    return array


def _read_safetensors(path: str) -> dict[str, NDArray[Any]]:
    with open_tensors(path) as file:
        if file.metadata.get("format") == "convlane plan":
            raise ValueError(f"{path}: it is a compiled network, which convlane.load_plan reads")
        prefix = "model." if file.metadata.get("format") == CHECKPOINT else ""
        names = [name for name in file.tensors if name.startswith(prefix)]
        try:
            arrays = {name[len(prefix) :]: as_weight(name, file.read(name)) for name in names}
            return arrays if file.has_checksums else _unwrapped(arrays)
        except ValueError as error:
            raise ValueError(f"{path}: {str(error).removeprefix(f'{path}: ')}") from error


def is_hdf5(path: Path) -> bool:
    """Return whether a file is HDF5, as Keras writes it."""
    with open_regular(path) as stream:
        return stream.read(len(_HDF5)) == _HDF5


def _unwrapped(arrays: dict[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    """Return the arrays without the prefixes that all names share, and without the counter of an AveragedModel."""
    while True:
        names = [name for name in arrays if name != _AVERAGED]
        prefix = next((prefix for prefix in _PREFIXES if all(name.startswith(prefix) for name in names)), None)
        if prefix is None or not names:
            return arrays
        arrays = {name.removeprefix(prefix): arrays[name] for name in arrays if name != _AVERAGED or prefix != _MODULE}


def _read_keras(path: str) -> dict[str, NDArray[Any]]:
    from convlane.weights.keras_file import read_keras  # as below

    hooks["import_families"]()
    return read_keras(path)


def _read_zip(stream: BinaryIO, start: bytes) -> dict[str, NDArray[Any]]:
    """Read a zip file, or a torch file from before torch wrote zip files."""
    # Importing these takes time, which only such files justify.
    from convlane.weights.archive import Archive
    from convlane.weights.npz_file import SUFFIX, read_npz
    from convlane.weights.torch_file import OLD_MAGIC, PICKLE, read_old_torch, read_torch

    if start.startswith(OLD_MAGIC):
        return read_old_torch(stream, os.fstat(stream.fileno()).st_size)
    if not start.startswith(_ZIP):
        _refuse(start)
    archive = Archive(stream)
    if any(name.rpartition("/")[2] == PICKLE for name in archive.entries):
        return read_torch(archive)
    if all(name.endswith(SUFFIX) for name in archive.entries):
        return read_npz(archive)
    raise ValueError(
        f"it is a zip file neither of torch, which would have a {PICKLE}, nor of NumPy, "
        f"where all would end in {SUFFIX}: it has {shown(sorted(archive.entries))}"
    )


def _refuse(start: bytes) -> NoReturn:
    for magic, what in _NOT_READ.items():
        if start.startswith(magic):
            raise ValueError(f"it is {what}")
    raise ValueError(f"it is not a file of safetensors, NumPy (.npz) or torch: it begins with {start[:16]!r}")
