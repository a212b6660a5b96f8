"""The same values in every memory layout that NumPy can make."""

import numpy as np


def _negative(x):
    return np.ascontiguousarray(x[..., ::-1])[..., ::-1]


def _sliced(x):
    wide = np.zeros((*x.shape[:-1], 2 * x.shape[-1]), x.dtype)
    wide[..., ::2] = x
    return wide[..., ::2]


def _misaligned(x):
    raw = np.zeros(x.nbytes + 1, np.uint8)[1:]
    view = raw.view(x.dtype).reshape(x.shape)
    view[...] = x
    return view


def _read_only(x):
    copy = x.copy()
    copy.flags.writeable = False
    return copy


def _channels_last(x):
    return np.moveaxis(np.ascontiguousarray(np.moveaxis(x, 1, -1)), -1, 1) if x.ndim > 1 else x


LAYOUTS = {
    "contiguous": np.ascontiguousarray,
    "channels_last": _channels_last,
    "fortran": np.asfortranarray,
    "negative_strides": _negative,
    "sliced": _sliced,
    "misaligned": _misaligned,
    "big_endian": lambda x: x.astype(">f4"),
    "read_only": _read_only,
}
