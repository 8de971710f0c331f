"""Read what torch.save wrote without running any of it.

A checkpoint is a pickle, and a pickle is a program: it may name any function and call it. `torch.load`
runs it, and its weights_only mode refuses old training checkpoints that hold an argparse.Namespace or an
optimizer. This reader walks the two containers itself (the zip archive of torch >= 1.6 and the stream before
it). A name in the pickle becomes a constant of the short table below, or else an `Inert` that swallows
everything, so the only code that a file can reach is in this module. Tensors stay references until they are
asked for; sizes are checked against the file before memory is taken.
"""

from __future__ import annotations

import io
import pickle
import pickletools
import struct
import zipfile
from collections.abc import Callable
from typing import Any, TypeGuard

import torch

_LEGACY_MAGIC = 0x1950A86A20F9469CFC6C  # first pickle of the stream format
_LEGACY_PROTOCOL = 1001
_TAR_MAGIC = slice(257, 262)
# CPython hashes nested tuples on the C stack and dies of an overflow beyond 100 000 levels. Optimizers of
# the largest models here need under 20 000 tuples in all.
_MAX_TUPLES = 65_536
_RESAVE = "load it once with the torch that wrote it, then torch.save(model.state_dict(), path)"


class TorchFileError(ValueError):
    """The bytes are no readable checkpoint: `reason` completes "cannot read PATH: ", `fix` is what to do."""

    def __init__(self, reason: str, fix: str = "download or copy the file again") -> None:
        super().__init__(reason)
        self.reason = reason
        self.fix = fix


class Inert:
    """Stands for whatever a pickle names and we do not load: takes any arguments, state and items, keeps none."""

    __slots__ = ()

    def __new__(cls, *_: object, **__: object) -> Inert:
        return super().__new__(cls)

    def __init__(self, *_: object, **__: object) -> None: ...

    def __call__(self, *_: object, **__: object) -> Inert:
        return self

    def __setstate__(self, *_: object) -> None: ...

    def __setitem__(self, *_: object) -> None: ...

    def append(self, *_: object) -> None:
        """An item of a list subclass."""

    def extend(self, *_: object) -> None:
        """Items of a list subclass."""

    def add(self, *_: object) -> None:
        """An item of a set subclass."""


class _Sealed:
    """Base of our own objects on the pickle's stack: state that a pickle would give them is dropped."""

    __slots__ = ()

    def __setstate__(self, *_: object) -> None: ...


class _Mapping(dict[Any, Any]):
    """An OrderedDict of the file; its attributes (`_metadata` of state dicts) are dropped."""

    __slots__ = ()

    def __setstate__(self, *_: object) -> None: ...


class _Storage(_Sealed):
    """`count` elements of `dtype` under `key` in the container, after skipping `start` elements."""

    __slots__ = ("count", "dtype", "key", "start")

    def __init__(self, key: str, dtype: torch.dtype, start: int, count: int) -> None:
        self.key, self.dtype, self.start, self.count = key, dtype, start, count


class StoredTensor(_Sealed):
    """A tensor that is still in the file; `TorchFile.tensor` reads it. offset and stride count elements."""

    __slots__ = ("dtype", "offset", "shape", "storage", "stride")

    def __init__(
        self, storage: _Storage, offset: int, shape: tuple[int, ...], stride: tuple[int, ...], dtype: torch.dtype
    ) -> None:
        self.storage, self.offset, self.shape, self.stride, self.dtype = storage, offset, shape, stride, dtype


class _Allowed(_Sealed):
    """A function that a pickle may call. Wrapped, because state for a bare function could change its defaults."""

    __slots__ = ("_function",)

    def __init__(self, function: Callable[..., object]) -> None:
        self._function = function

    def __call__(self, *args: object) -> object:
        return self._function(*args)


def _is_index(values: object) -> TypeGuard[tuple[int, ...]]:
    return type(values) is tuple and all(type(value) is int and value >= 0 for value in values)


def _stored(storage: object, offset: object, shape: object, stride: object, dtype: object) -> StoredTensor | Inert:
    """A reference to a dense tensor, or Inert for anything that is not one."""
    if not isinstance(storage, _Storage) or not isinstance(dtype, torch.dtype):
        return Inert()
    first = (offset,)
    if not _is_index(first) or not _is_index(shape) or not _is_index(stride) or len(shape) != len(stride):
        return Inert()
    return StoredTensor(storage, first[0], shape, stride, dtype)


def _rebuild_v2(storage: object, offset: object, shape: object, stride: object, *_: object) -> StoredTensor | Inert:
    return _stored(storage, offset, shape, stride, getattr(storage, "dtype", None))


def _rebuild_v3(
    storage: object,
    offset: object,
    shape: object,
    stride: object,
    _grad: object,
    _hooks: object,
    dtype: object,
    *_: Any,
) -> StoredTensor | Inert:
    return _stored(storage, offset, shape, stride, dtype)


def _rebuild_parameter(data: object, *_: object) -> object:
    return data


def _rebuild_subclass(function: object, _type: object, args: object, *_: object) -> object:
    return function(*args) if isinstance(function, _Allowed) and type(args) is tuple else Inert()


_STORAGE_DTYPES = {
    "DoubleStorage": torch.float64,
    "FloatStorage": torch.float32,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
}
_KNOWN: dict[tuple[str, str], object] = {
    ("collections", "OrderedDict"): _Mapping,
    ("torch._utils", "_rebuild_tensor"): _Allowed(_rebuild_v2),
    ("torch._utils", "_rebuild_tensor_v2"): _Allowed(_rebuild_v2),
    ("torch._utils", "_rebuild_tensor_v3"): _Allowed(_rebuild_v3),
    ("torch._utils", "_rebuild_parameter"): _Allowed(_rebuild_parameter),
    ("torch._utils", "_rebuild_parameter_with_state"): _Allowed(_rebuild_parameter),
    ("torch._tensor", "_rebuild_from_type_v2"): _Allowed(_rebuild_subclass),
    ("torch.storage", "UntypedStorage"): torch.uint8,
    **{("torch", name): dtype for name, dtype in _STORAGE_DTYPES.items()},
    **{("torch.cuda", name): dtype for name, dtype in _STORAGE_DTYPES.items()},
    **{("torch", name): value for name, value in vars(torch).items() if isinstance(value, torch.dtype)},
}


def _no_storages(_: object) -> object:
    raise pickle.UnpicklingError("a storage where none belongs")


class _Unpickler(pickle.Unpickler):
    """A pickle machine whose every global is a constant of `_KNOWN` or Inert."""

    def __init__(self, data: bytes, persistent: Callable[[Any], object]) -> None:
        # latin-1 decodes every byte, as strings of Python 2 checkpoints need.
        super().__init__(io.BytesIO(data), encoding="latin1")
        self._persistent = persistent

    def find_class(self, module: str, name: str) -> object:
        return _KNOWN.get((module, name), Inert)

    def persistent_load(self, pid: Any) -> object:
        return self._persistent(pid)


def _scan(stream: io.BytesIO) -> bytes:
    """The bytes of the next pickle in `stream`, after a walk over its opcodes that runs none of them.

    The walk refuses what would hurt CPython itself: truncated arguments (it allocates before it reads),
    memo slots far apart (it fills the gap), towers of tuples.
    """
    start = stream.tell()
    tuples = 0
    for opcode, argument, _ in pickletools.genops(stream):
        tuples += "TUPLE" in opcode.name
        if tuples > _MAX_TUPLES or ("PUT" in opcode.name and isinstance(argument, int) and argument > stream.tell()):
            raise TorchFileError("its pickle is built to exhaust memory", "do not use this file")
        if opcode.name.startswith("EXT"):
            raise TorchFileError("its pickle uses an extension registry", _RESAVE)
    end = stream.tell()
    stream.seek(start)
    return stream.read(end - start)


def _unpickle(stream: io.BytesIO, persistent: Callable[[Any], object] = _no_storages) -> Any:
    """The next object of `stream`. Raises TorchFileError for whatever goes wrong inside the pickle."""
    try:
        return _Unpickler(_scan(stream), persistent).load()
    except TorchFileError:
        raise
    except Exception as error:  # a hostile or damaged pickle may raise any type; none of them is our bug
        raise TorchFileError(f"damaged pickle ({type(error).__name__})") from error


def _storage_of(pid: Any) -> object:
    """The reference behind a persistent id: ("storage", dtype, key, location, count[, view]).

    Inert for other ids, such as ("module", class, source file, source) of old pickled modules.
    """
    if type(pid) is not tuple or not pid or pid[0] != "storage":
        return Inert
    _, dtype, key, _location, count, *view = pid
    start = 0
    if view and view[0] is not None:  # (key, first element, elements) of a storage that is part of another
        _, start, count = view[0]
    if not isinstance(dtype, torch.dtype) or type(key) not in (str, int) or not _is_index((start, count)):
        return Inert
    return _Storage(str(key), dtype, start, count)


class TorchFile:
    """A parsed file: `content` is plain data, StoredTensor and Inert; `tensor` brings a StoredTensor to memory."""

    def __init__(self, content: object, read_storage: Callable[[str], bytes]) -> None:
        self.content = content
        self._read_storage = read_storage
        self._loaded: dict[str, torch.Tensor] = {}  # key -> uint8 (bytes,)

    def _bytes(self, key: str) -> torch.Tensor:
        if key not in self._loaded:
            data = bytearray(self._read_storage(key))  # torch.frombuffer needs writable memory
            self._loaded[key] = torch.frombuffer(data, dtype=torch.uint8) if data else torch.empty(0, dtype=torch.uint8)
        return self._loaded[key]

    def tensor(self, stored: StoredTensor) -> torch.Tensor:
        """The tensor, sharing memory with others of its storage. Raises TorchFileError when it exceeds the file."""
        storage, width = stored.storage, stored.dtype.itemsize
        begin = storage.start * storage.dtype.itemsize
        size_bytes = storage.count * storage.dtype.itemsize
        reach = stored.offset + sum((n - 1) * step for n, step in zip(stored.shape, stored.stride, strict=True)) + 1
        try:
            if 0 in stored.shape:
                return torch.empty(stored.shape, dtype=stored.dtype)
            data = self._bytes(storage.key)
            if begin + size_bytes > len(data) or reach * width > size_bytes:
                raise TorchFileError(f"a tensor of shape {stored.shape} is larger than its data in the file")
            elements = data[begin : begin + size_bytes].view(stored.dtype)
            return elements.as_strided(stored.shape, stored.stride, stored.offset)
        except (RuntimeError, TypeError) as error:  # for a misaligned view or a stride beyond 64 bits
            raise TorchFileError(f"a tensor of shape {stored.shape} has malformed data") from error


def read_torch_file(data: bytes) -> TorchFile:
    """Parse the bytes of a file that torch.save wrote, in either container. Raises TorchFileError."""
    if not data:
        raise TorchFileError("it is empty")
    if data[_TAR_MAGIC] == b"ustar":
        raise TorchFileError("it has the tar format of torch < 0.2", _RESAVE)
    return _read_zip(data) if data.startswith(b"PK\x03\x04") else _read_stream(data)


def _read_zip(data: bytes) -> TorchFile:
    """Members: ROOT/data.pkl, the object; ROOT/data/KEY, raw storages; ROOT/byteorder."""
    try:
        archive = zipfile.ZipFile(io.BytesIO(data))
    except Exception as error:  # zipfile has no common base for what a damaged directory makes it raise
        raise TorchFileError("it is cut off or damaged") from error
    members = {info.filename.partition("/")[2]: info for info in archive.infolist()}
    # torch stores members as they are; only a compressed or an overlapping archive claims more than its size.
    if any(info.compress_type != zipfile.ZIP_STORED for info in members.values()) or (
        sum(info.file_size for info in members.values()) > len(data)
    ):
        raise TorchFileError("its members are compressed or overlap", "unpack it if it was zipped, else do not use it")
    if "constants.pkl" in members:
        raise TorchFileError("it is a TorchScript program", "save the state_dict() of the model it came from")
    if "data.pkl" not in members:
        raise TorchFileError("it is a zip archive, but not one of torch.save", "give a .pth, .pt or .safetensors file")

    def read(name: str) -> bytes:
        if name not in members:
            raise TorchFileError(f"its member {name!r} is missing")
        try:
            return archive.read(members[name])
        except Exception as error:  # as above
            raise TorchFileError(f"its member {name!r} is damaged") from error

    if "byteorder" in members and read("byteorder") != b"little":
        raise TorchFileError("it was written on a big-endian machine", _RESAVE)
    content = _unpickle(io.BytesIO(read("data.pkl")), _storage_of)
    return TorchFile(content, lambda key: read(f"data/{key}"))


def _read_stream(data: bytes) -> TorchFile:
    """Five pickles (magic, protocol, machine, object, storage keys), then per key: int64 count, raw elements."""
    stream = io.BytesIO(data)
    try:
        magic = _unpickle(stream)
    except TorchFileError:
        magic = None
    if magic != _LEGACY_MAGIC:
        raise TorchFileError("it is not a file of torch.save", "give a .pth, .pt or .safetensors file, not a web page")
    protocol, machine = _unpickle(stream), _unpickle(stream)
    if protocol != _LEGACY_PROTOCOL or not isinstance(machine, dict) or machine.get("little_endian") is not True:
        raise TorchFileError("it has another protocol or byte order than torch on this machine", _RESAVE)
    dtypes: dict[str, torch.dtype] = {}

    def remember(pid: Any) -> object:
        storage = _storage_of(pid)
        if isinstance(storage, _Storage):
            dtypes.setdefault(storage.key, storage.dtype)
        return storage

    content = _unpickle(stream, remember)
    keys = _unpickle(stream)
    if not isinstance(keys, list):
        raise TorchFileError("it is cut off or damaged")
    spans = _stream_spans(data, stream.tell(), [str(key) for key in keys], dtypes)
    return TorchFile(content, lambda key: data[spans.get(key, slice(0))])


def _stream_spans(data: bytes, position: int, keys: list[str], dtypes: dict[str, torch.dtype]) -> dict[str, slice]:
    """Where each storage lies in a stream file. Raises TorchFileError when the file ends too early."""
    spans: dict[str, slice] = {}
    for key in keys:
        header = data[position : position + 8]
        count = struct.unpack("<q", header)[0] if len(header) == 8 else -1
        end = position + 8 + count * dtypes[key].itemsize if key in dtypes else -1
        if count < 0 or not position < end <= len(data):
            raise TorchFileError("it is cut off or damaged")
        spans[key] = slice(position + 8, end)
        position = end
    return spans
