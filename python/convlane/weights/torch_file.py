"""Tensors of the files that ``torch.save`` writes, without torch and without `pickle`.

Since 1.6 they are zip files, with a pickle, which is a program for a small stack machine, and the bytes of each storage
as an entry. Older ones are a sequence of pickles, followed by the storages.
Here the program is interpreted with exactly the operations and globals that dictionaries of tensors need, none of which
can do anything but build plain values. Whatever else torch's own safe loader accepts is skipped, and anything else is
refused by name. A tensor remains a description until its bytes are needed, so unwanted parts of a checkpoint are never
read.
"""

from __future__ import annotations

import math
import pickletools
import re
import struct
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, BinaryIO, NoReturn

import numpy as np
from numpy.lib.stride_tricks import as_strided
from numpy.typing import NDArray

from convlane.safetensors_file import from_bfloat16, shown
from convlane.weights.archive import Archive, check_growth, loaded_bytes

PICKLE = "data.pkl"

_WRAPPERS = ("state_dict", "model_state_dict", "model")
_CONVERT = (
    "only dictionaries of tensors are read; where torch is installed, "
    "torch.save(model.state_dict(), path) writes such a file"
)
_MOST_PICKLE = 2**26  # bytes
# Operations of the pickle: about 40 make a tensor, and none takes more than 1.5 microseconds (Xeon with AVX-512,
# 2026-11-26) and 250 bytes. A large file may have more of them, as it may take more memory.
_FEWEST_OPERATIONS, _BYTES_PER_OPERATION, _MOST_OPERATIONS = 250_000, 32, 1_500_000
_MOST_DIMENSIONS = 32  # NumPy 1's limit
OLD_MAGIC = b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19."  # a pickle of torch.serialization.MAGIC_NUMBER
_OLD_VERSION = 1001  # torch.serialization.PROTOCOL_VERSION, the only one that was ever written
_COUNT_BYTES = 8  # before the elements of a storage
_BFLOAT16 = np.dtype([("bfloat16", "<u2")])
_OPERATION_NAMES = {operation.code: operation.name for operation in pickletools.opcodes}
_STORAGES = {
    "torch.BFloat16Storage": _BFLOAT16,
    "torch.BoolStorage": np.dtype("?"),
    "torch.ByteStorage": np.dtype("u1"),
    "torch.CharStorage": np.dtype("i1"),
    "torch.ComplexDoubleStorage": np.dtype("<c16"),
    "torch.ComplexFloatStorage": np.dtype("<c8"),
    "torch.DoubleStorage": np.dtype("<f8"),
    "torch.FloatStorage": np.dtype("<f4"),
    "torch.HalfStorage": np.dtype("<f2"),
    "torch.IntStorage": np.dtype("<i4"),
    "torch.LongStorage": np.dtype("<i8"),
    "torch.ShortStorage": np.dtype("<i2"),
}
_SKIPPED_TENSORS = re.compile(
    r"torch\._utils\._rebuild_(tensor_v3|qtensor|sparse_tensor|meta_tensor_no_storage|nested_tensor)"
)
_SKIPPED_STORAGES = re.compile(r"torch\.(storage\.UntypedStorage|Q[A-Za-z0-9]+Storage)")
_SKIPPED_VALUES = re.compile(
    r"collections\.Counter|_codecs\.encode|(__builtin__|builtins)\.(bytearray|complex|set)|torch\.serialization\._get_layout"
    r"|torch\.(Size|Tensor|device|nn\.parameter\.(Parameter|Buffer))"
    r"|torch\.(bfloat|bits|bool|complex|float|per_tensor|per_channel|q?u?int)[a-z0-9_]*"
)


def read_torch(archive: Archive) -> dict[str, NDArray[Any]]:
    """Return the state dict of an archive with a ``data.pkl``; a ValueError says what is wrong."""
    names = [name for name in archive.entries if name.rpartition("/")[2] == PICKLE]
    if len(names) != 1 or names[0].count("/") > 1:
        raise ValueError(f"it must have one {PICKLE} in its folder, but has {shown(names)}")
    folder = names[0].removesuffix(PICKLE)
    if any(name == f"{folder}constants.pkl" or name.startswith(f"{folder}code/") for name in archive.entries):
        raise ValueError(f"it is a TorchScript program; {_CONVERT}")
    for name, entry in archive.entries.items():
        if entry.compress_type != zipfile.ZIP_STORED:
            raise ValueError(f"the entry {shown(name)} is compressed, which torch.save does not do")
    order = archive.read(f"{folder}byteorder", 16) if f"{folder}byteorder" in archive.entries else b"little"
    if order != b"little":
        raise ValueError(f"its byte order is {shown(order)}; only little is read")
    pickle = _Interpreter(archive.read(names[0], _MOST_PICKLE), _most_operations(archive.size))
    value = pickle.run()
    if pickle.position != len(pickle.program):
        raise ValueError("its pickle goes on after its end")
    tensors = _state_dict(value)
    _check_size(tensors, archive.size)
    arrays: dict[str, NDArray[Any]] = dict.fromkeys(tensors, np.empty(0))  # in the order of the file
    for key, sharing in _by_storage(tensors).items():
        entry_name = f"{folder}data/{key}"
        if entry_name not in archive.entries:
            raise ValueError(f"the tensor {shown(sharing[0])} is in the storage {shown(key)}, which is missing")
        size = archive.entries[entry_name].file_size
        for name in sharing:
            if size != tensors[name].storage.nbytes:
                raise ValueError(
                    f"the storage {shown(key)} has {size} bytes, but the tensor {shown(name)} expects "
                    f"{tensors[name].storage.nbytes}"
                )
        data = archive.read(entry_name, size)
        for name in sharing:
            arrays[name] = tensors[name].view(data)
    return arrays


def read_old_torch(stream: BinaryIO, size: int) -> dict[str, NDArray[Any]]:
    """Return the state dict of a file of `size` bytes from before torch 1.6; a ValueError says what is wrong."""
    stream.seek(0)
    program = stream.read(min(size, _MOST_PICKLE))
    position, left, values = 0, _most_operations(size), []
    for _ in range(5):  # a magic number, a version, the machine, what was saved, the keys of the storages
        pickle = _Interpreter(program, left, position, old=True)
        values.append(pickle.run())
        position, left = pickle.position, left - pickle.operations
        if len(values) == 4:
            storages = pickle.storages
    _, version, machine, value, keys = values
    if version != _OLD_VERSION or type(machine) is not dict or machine.get("little_endian") is not True:
        raise ValueError(f"it is of version {shown(version)} and from the machine {shown(machine)}; {_CONVERT}")
    if type(keys) is not list or not all(type(key) is str for key in keys) or sorted(keys) != sorted(storages):
        raise ValueError(f"the storages in it, {shown(keys)}, are not those that its pickle describes")
    tensors = _state_dict(value)
    _check_size(tensors, size)
    arrays: dict[str, NDArray[Any]] = dict.fromkeys(tensors, np.empty(0))
    wanted = _by_storage(tensors)
    for key in keys:
        storage = storages[key]
        stream.seek(position)
        count = int.from_bytes(stream.read(_COUNT_BYTES), "little")
        position += _COUNT_BYTES + storage.nbytes
        if count != storage.count or position > size:
            raise ValueError(f"the storage {shown(key)} has {count} numbers or is cut off, of {storage.count}")
        if key in wanted:
            data = stream.read(storage.nbytes)
            for name in wanted[key]:
                arrays[name] = tensors[name].view(data)
    if position != size:
        raise ValueError(f"it has {size - position} bytes after its last storage")
    return arrays


def _most_operations(size: int) -> int:
    """Return how many operations the pickles of a file of this size may have."""
    return min(max(size // _BYTES_PER_OPERATION, _FEWEST_OPERATIONS), _MOST_OPERATIONS)


def _check_size(tensors: dict[str, Tensor], size: int) -> None:
    """Refuse tensors that would take too much memory for the file's size, with one storage in memory at a time."""
    total = sum(loaded_bytes(math.prod(tensor.shape), tensor.dtype) for tensor in tensors.values())
    check_growth(total + max((tensor.storage.nbytes for tensor in tensors.values()), default=0), size)


def _by_storage(tensors: dict[str, Tensor]) -> dict[str, list[str]]:
    """Return the names of the tensors that share a storage."""
    names: dict[str, list[str]] = {}
    for name, tensor in tensors.items():
        names.setdefault(tensor.storage.key, []).append(name)
    return names


@dataclass(frozen=True, slots=True)
class Storage:
    """Elements that tensors are views of."""

    key: str
    dtype: np.dtype[Any]
    count: int

    @property
    def nbytes(self) -> int:
        """Their size."""
        return self.count * self.dtype.itemsize


@dataclass(frozen=True, slots=True)
class Tensor:
    """A view of a storage, which lies within it."""

    storage: Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type of its numbers."""
        return self.storage.dtype

    def view(self, data: bytes) -> NDArray[Any]:
        """Return it as a view of the storage's bytes, or as an array if its type must be converted."""
        if 0 in self.shape:
            return np.empty(self.shape, np.float32 if self.dtype == _BFLOAT16 else self.dtype)
        steps = [stride * self.dtype.itemsize for stride in self.strides]
        flat = np.frombuffer(data, self.dtype)[self.offset :]
        array: NDArray[Any] = as_strided(flat, self.shape, steps, writeable=False)
        if self.dtype == _BFLOAT16:
            return from_bfloat16(array["bfloat16"])
        return array.view(np.uint8) != 0 if self.dtype.kind == "b" else array


@dataclass(frozen=True, slots=True)
class _Global:
    """A name that the pickle refers to and that is allowed."""

    name: str


@dataclass(frozen=True, slots=True)
class _Skipped:
    """A value that is not read."""

    what: str
    is_tensor: bool = False


@dataclass(frozen=True, slots=True, eq=False)
class _Key:
    """A key that is not a string. Its value is dropped: keys of unknown origin may collide, or be endless."""

    kind: str


class _Mark:
    """Where the arguments of an operation begin on the stack."""


_MARK = _Mark()


class _Interpreter:
    """Runs a pickle of protocol 2, as far as it describes dictionaries of tensors.

    Its values are None, bool, int, float, str, tuple, list, dict, `_Global`, `Storage`, `Tensor` and `_Skipped`; only
    lists and dictionaries are ever changed.
    """

    def __init__(self, program: bytes, most_operations: int, position: int = 0, *, old: bool = False) -> None:
        self.program, self.position, self.operations = program, position, 0
        self.storages: dict[str, Storage] = {}
        """All storages that it describes, even of tensors that are not wanted."""
        self._most_operations, self._old = most_operations, old
        self._stack: list[Any] = []
        self._memo: dict[int, Any] = {}

    def run(self) -> Any:
        """Return what the pickle describes; `position` is then after it."""
        while self.operations < self._most_operations:
            self.operations += 1
            code = self._take(1)
            if code == b".":
                value = self._pop()
                if self._stack:
                    raise ValueError("its pickle goes on after its end")
                return value
            operation = _OPERATIONS.get(code)
            if operation is None:
                name = _OPERATION_NAMES.get(code.decode("latin1"), repr(code))
                raise ValueError(f"its pickle has the operation {name}; {_CONVERT}")
            operation(self)
        raise ValueError(f"its pickle has more than {self._most_operations} operations")

    # the program and the stack

    def _take(self, count: int) -> bytes:
        taken = self.program[self.position : self.position + count]
        if len(taken) != count:
            raise ValueError("its pickle is cut off")
        self.position += count
        return taken

    def _number(self, layout: str) -> Any:
        return struct.unpack(layout, self._take(struct.calcsize(layout)))[0]

    def _line(self) -> str:
        end = self.program.find(b"\n", self.position, self.position + 1000)
        if end < 0:
            raise ValueError("its pickle has a name without an end")
        line = self.program[self.position : end].decode()
        self.position = end + 1
        return line

    def _pop(self) -> Any:
        if not self._stack or self._stack[-1] is _MARK:
            raise ValueError("its pickle takes more from the stack than there is")
        return self._stack.pop()

    def _top(self, kind: type) -> Any:
        """Return the value on top of the stack, which stays there."""
        value = self._pop()
        self._stack.append(value)
        if type(value) is not kind:
            raise ValueError(f"its pickle changes {shown(value)} as if it were a {kind.__name__}; {_CONVERT}")
        return value

    def _pop_to_mark(self) -> list[Any]:
        position = len(self._stack) - 1
        while position >= 0 and self._stack[position] is not _MARK:
            position -= 1
        if position < 0:
            raise ValueError("its pickle lacks a mark")
        values = self._stack[position + 1 :]
        del self._stack[position:]
        return values

    # operations

    def _protocol(self) -> None:
        if (protocol := self._number("<B")) != 2:
            raise ValueError(f"its pickle has the protocol {protocol}; torch.save writes 2")

    def _push_long(self) -> None:
        self._stack.append(int.from_bytes(self._take(self._number("<B")), "little", signed=True))

    def _push_text(self) -> None:
        self._stack.append(self._take(self._number("<I")).decode("utf-8", "surrogatepass"))

    def _push_global(self) -> None:
        module, name = self._line(), self._line()
        full = f"{module}.{name}"
        skipped = (_SKIPPED_VALUES, _SKIPPED_TENSORS, _SKIPPED_STORAGES)
        if full not in _FUNCTIONS and full not in _STORAGES and not any(names.fullmatch(full) for names in skipped):
            raise ValueError(f"its pickle refers to {full!r}; {_CONVERT}")
        self._stack.append(_Global(full))

    def _push_tuple(self, count: int) -> None:
        values = [self._pop() for _ in range(count)]
        self._stack.append(tuple(reversed(values)))

    def _remember(self, layout: str) -> None:
        value = self._pop()
        self._stack.append(value)
        self._memo[self._number(layout)] = value

    def _recall(self, layout: str) -> None:
        index = self._number(layout)
        if index not in self._memo:
            raise ValueError(f"its pickle recalls {index}, which it never stored")
        self._stack.append(self._memo[index])

    def _append(self) -> None:
        value = self._pop()
        self._top(list).append(value)

    def _extend(self) -> None:
        values = self._pop_to_mark()
        self._top(list).extend(values)

    def _set_item(self) -> None:
        value, key = self._pop(), self._pop()
        self._set(self._top(dict), [key, value])

    def _set_items(self) -> None:
        items = self._pop_to_mark()
        self._set(self._top(dict), items)

    def _set(self, target: dict[Any, Any], items: list[Any]) -> None:
        if len(items) % 2:
            raise ValueError("its pickle has a key without a value")
        for key, value in zip(items[::2], items[1::2], strict=True):
            if type(key) is str and key in target:
                raise ValueError(f"its pickle has the key {shown(key)} twice")
            target[key if type(key) is str else _Key(type(key).__name__)] = value

    def _build(self) -> None:
        """Take and drop the attributes of an OrderedDict, which are versions of layers."""
        if type(state := self._pop()) is not dict:
            raise ValueError(f"its pickle has the attributes {shown(state)}")
        self._top(dict)

    def _push_storage(self) -> None:
        identity = self._pop()
        if self._old and type(identity) is tuple and identity[5:] == (None,):  # it is no part of another storage
            identity = identity[:5]
        match identity:
            case ("storage", _Global(name), str(key), str(), int(count)) if name in _STORAGES and _is_size(count):
                storage = Storage(key, _STORAGES[name], count)
                if self.storages.setdefault(key, storage) != storage and self._old:
                    raise ValueError(f"its pickle has two storages {shown(key)}")
                self._stack.append(storage)
            case ("storage", _Global(name), *_) if _SKIPPED_STORAGES.fullmatch(name) and not self._old:
                self._stack.append(_Skipped(name))
            case other:
                raise ValueError(f"its pickle has the storage {shown(other)}, which torch.save never writes")

    def _reduce(self) -> None:
        arguments, function = self._pop(), self._pop()
        if type(function) is not _Global or type(arguments) is not tuple:
            raise ValueError(f"its pickle calls {shown(function)} with {shown(arguments)}; {_CONVERT}")
        if function.name in _FUNCTIONS:
            self._stack.append(_FUNCTIONS[function.name](arguments))
        else:
            self._stack.append(_Skipped(function.name, _SKIPPED_TENSORS.fullmatch(function.name) is not None))


_OPERATIONS: dict[bytes, Callable[[_Interpreter], None]] = {
    b"\x80": _Interpreter._protocol,
    b"(": lambda self: self._stack.append(_MARK),
    b"N": lambda self: self._stack.append(None),
    b"\x88": lambda self: self._stack.append(True),
    b"\x89": lambda self: self._stack.append(False),
    b"K": lambda self: self._stack.append(self._number("<B")),
    b"M": lambda self: self._stack.append(self._number("<H")),
    b"J": lambda self: self._stack.append(self._number("<i")),
    b"\x8a": _Interpreter._push_long,
    b"G": lambda self: self._stack.append(self._number(">d")),
    b"X": _Interpreter._push_text,
    b"c": _Interpreter._push_global,
    b")": lambda self: self._stack.append(()),
    b"\x85": lambda self: self._push_tuple(1),
    b"\x86": lambda self: self._push_tuple(2),
    b"\x87": lambda self: self._push_tuple(3),
    b"t": lambda self: self._stack.append(tuple(self._pop_to_mark())),
    b"]": lambda self: self._stack.append([]),
    b"a": _Interpreter._append,
    b"e": _Interpreter._extend,
    b"}": lambda self: self._stack.append({}),
    b"s": _Interpreter._set_item,
    b"u": _Interpreter._set_items,
    b"q": lambda self: self._remember("<B"),
    b"r": lambda self: self._remember("<I"),
    b"h": lambda self: self._recall("<B"),
    b"j": lambda self: self._recall("<I"),
    b"Q": _Interpreter._push_storage,
    b"R": _Interpreter._reduce,
    b"b": _Interpreter._build,
}


def _ordered_dict(arguments: tuple[Any, ...]) -> dict[Any, Any]:
    if arguments:
        raise ValueError(f"its pickle makes an OrderedDict of {shown(arguments)}")
    return {}


def _rebuild_parameter(arguments: tuple[Any, ...]) -> Tensor | _Skipped:
    match arguments:
        case (Tensor() | _Skipped(is_tensor=True) as tensor, bool(), dict(), *state) if len(state) < 2:
            return tensor
    raise ValueError(f"its pickle makes a parameter of {shown(arguments)}")


def _rebuild_with_attributes(arguments: tuple[Any, ...]) -> Tensor | _Skipped:
    """Return a tensor with attributes, as buffers have, without these."""
    match arguments:
        case (_Global("torch._utils._rebuild_tensor_v2"), _Global(), tuple(inner), _):
            return _rebuild_tensor(inner)
        case (_Global(), _Global(), tuple(), _):
            return _Skipped("a tensor of a class of its own", True)
    raise ValueError(f"its pickle makes a tensor with attributes of {shown(arguments)}")


def _rebuild_tensor(arguments: tuple[Any, ...]) -> Tensor | _Skipped:
    match arguments:
        case (Storage() as storage, int(offset), tuple(shape), tuple(strides), bool(), dict(), *metadata):
            if any(metadata):
                return _Skipped("a tensor that is lazily negated or conjugated", True)
        case (_Skipped(what), *_):
            return _Skipped(what, True)
        case _:
            raise ValueError(f"its pickle makes a tensor of {shown(arguments)}")

    def refuse(why: str) -> NoReturn:
        raise ValueError(
            f"its pickle has a tensor of shape {shown(shape)}, strides {shown(strides)} and offset {shown(offset)} "
            f"in a storage of {storage.count} numbers: {why}"
        )

    if not (_is_size(offset) and all(map(_is_size, shape)) and all(map(_is_size, strides))):
        refuse("all must be integers, none negative")
    if len(shape) != len(strides) or len(shape) > _MOST_DIMENSIONS:
        refuse(f"there must be one stride for each of up to {_MOST_DIMENSIONS} sizes")
    if math.prod(max(size, 1) for size in shape) * storage.dtype.itemsize > 2**63 - 1:
        refuse("the product overflows")
    strides = tuple(
        stride if size > 1 else 0 for size, stride in zip(shape, strides, strict=True)
    )  # others do not count
    last = offset + sum(stride * (size - 1) for size, stride in zip(shape, strides, strict=True))
    if 0 not in shape and last >= storage.count:
        refuse("it does not lie within")
    return Tensor(storage, offset, shape, strides)


_FUNCTIONS: dict[str, Callable[[tuple[Any, ...]], Any]] = {
    "collections.OrderedDict": _ordered_dict,
    "torch._tensor._rebuild_from_type_v2": _rebuild_with_attributes,
    "torch._utils._rebuild_parameter": _rebuild_parameter,
    "torch._utils._rebuild_parameter_with_state": _rebuild_parameter,
    "torch._utils._rebuild_tensor": lambda arguments: _rebuild_tensor((*arguments, False, {})),  # until 0.4
    "torch._utils._rebuild_tensor_v2": _rebuild_tensor,
}


def _is_size(value: Any) -> bool:
    return type(value) is int and 0 <= value < 2**63


def _state_dict(value: Any) -> dict[str, Tensor]:
    """Return the tensors of a state dict or of a checkpoint that holds one; everything else is skipped."""
    if not isinstance(value, dict):
        raise ValueError(f"it holds {_description(value)}, not a dictionary of tensors")
    wrapped = [key for key in _WRAPPERS if isinstance(value.get(key), dict)]
    if len(wrapped) > 1:
        raise ValueError(f"it holds {' and '.join(wrapped)}, so which is meant is unclear; save one of them alone")
    if wrapped:
        value = value[wrapped[0]]
    tensors = {key: tensor for key, tensor in value.items() if isinstance(key, str) and isinstance(tensor, Tensor)}
    for key, other in value.items():
        if isinstance(other, _Skipped) and other.is_tensor:
            raise ValueError(f"under {shown(key)} it has {_description(other)}, which is not read")
        lost = isinstance(key, _Key) and isinstance(other, Tensor)
        holds = isinstance(other, dict) and any(isinstance(inner, Tensor) for inner in other.values())
        if key not in tensors and (not tensors or lost or holds):
            raise ValueError(
                f"it is not a dictionary of tensors by name, nor has it one as {' or '.join(map(repr, _WRAPPERS))}: "
                f"under {shown(key)} it has {_description(other)}"
            )
    return tensors


def _description(value: Any) -> str:
    if isinstance(value, _Skipped):
        return value.what
    return "a tensor" if isinstance(value, Tensor) else f"a {type(value).__name__}"
