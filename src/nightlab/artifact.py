"""The artifact: a file that a run left, copied and looked through before anyone opens it.

Nothing here runs what a file holds: no pickle is ever read, sizes are capped, links are not followed. What this does
not cover: a bug in the library with which the judge then opens a well-formed file.
"""

from __future__ import annotations

import json
import os
import shutil
import stat
import struct
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from math import prod
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.lib import format as npy

from nightlab.errors import Invalid

_MOST_MEMBERS = 10_000
_MOST_HEADER = 100_000_000  # bytes; what the safetensors format itself allows
_MOST_JSON = 64 * 1024 * 1024  # bytes; parsed, it takes about ten times as much
_MOST_EXAMPLES = 1_000_000
LARGEST = 1e100
"""No value may be further from nought: what is squared and summed has to stay a number."""
_WIDTHS = {"BOOL": 1, "U8": 1, "I8": 1, "F8_E4M3": 1, "F8_E5M2": 1, "U16": 2, "I16": 2, "F16": 2, "BF16": 2}
_WIDTHS |= {"U32": 4, "I32": 4, "F32": 4, "U64": 8, "I64": 8, "F64": 8}
_BROKEN = (  # what zipfile, zlib, numpy and json raise at a file that is not in order
    *(ValueError, TypeError, KeyError, EOFError, OSError, SyntaxError, OverflowError, RecursionError, MemoryError),
    *(RuntimeError, struct.error, zipfile.BadZipFile, zlib.error),
)


@contextmanager
def opened(folder: Path, name: str, *, most: int) -> Iterator[IO[bytes]]:
    """A plain file of a folder that a stranger wrote to. Raises Invalid: not there, a link, a pipe, too large."""
    at, file = -1, -1
    try:
        at = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
        file = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=at)
        found = os.fstat(file)
        if not stat.S_ISREG(found.st_mode):
            raise Invalid(f"{name} is no plain file")
        if found.st_size > most:
            raise Invalid(f"{name} holds {found.st_size} bytes; at most {most} are allowed")
        with open(file, "rb", closefd=False) as stream:
            yield stream
    except FileNotFoundError:
        raise Invalid(f"left no {name}") from None
    except OSError as error:
        raise Invalid(f"{name} cannot be read as a plain file: {error.strerror}") from error
    finally:
        for one in (at, file):
            if one >= 0:
                os.close(one)


def taken(folder: Path, name: str, into: Path, *, most: int) -> Path:
    """A copy of the artifact that nobody else can write, known to be what its name says. Raises Invalid."""
    copy = into / name
    with opened(folder, name, most=most) as source, open(copy, "xb") as file:
        shutil.copyfileobj(source, file)
    look = {".npz": _look_at_npz, ".json": _look_at_json, ".safetensors": _look_at_safetensors}[copy.suffix]
    try:
        look(copy, most)
    except _BROKEN as error:
        raise Invalid(f"{name} is no sound {copy.suffix} file: {error or type(error).__name__}") from error
    return copy


def numbers(folder: Path, name: str) -> tuple[float, ...]:
    """The numbers of an .npy file with one row of finite ones. Raises Invalid."""
    with opened(folder, name, most=16 * _MOST_EXAMPLES + 65536) as stream:
        try:
            shape, dtype = _header(stream, os.fstat(stream.fileno()).st_size)
            if dtype.kind not in "fiub":
                raise ValueError(f"it holds {dtype}, where plain numbers are needed")
            found = np.frombuffer(stream.read(), dtype)
        except _BROKEN as error:
            raise Invalid(f"{name} is no sound .npy file: {error or type(error).__name__}") from error
    if len(shape) != 1:
        raise Invalid(f"{name} has the shape {shape}, where one number for each example is needed")
    return one_for_each(found.astype(float).tolist(), name)


def one_for_each(values: list[float], name: str) -> tuple[float, ...]:
    """Per-example values, known to be two or more, not too many, and finite. Raises Invalid."""
    if not 2 <= len(values) <= _MOST_EXAMPLES:
        raise Invalid(f"{name} holds {len(values)} values; 2 to {_MOST_EXAMPLES} are needed")
    if not (np.abs(values) <= LARGEST).all():
        raise Invalid(f"{name} holds values that are not finite, or too large to be compared")
    return tuple(values)


def _header(stream: IO[bytes], size: int) -> tuple[tuple[int, ...], np.dtype[Any]]:
    """Shape and type of an .npy stream, read without loading it; ValueError for what only unpickling could read."""
    version = npy.read_magic(stream)
    if version not in ((1, 0), (2, 0)):
        raise ValueError(f"its .npy version {version} is not known here")
    read = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
    shape, _, dtype = read(stream)
    if dtype.hasobject:
        raise ValueError("it holds Python objects, which only unpickling could read, and that runs what is in them")
    if min(shape, default=0) < 0 or stream.tell() + prod(shape) * dtype.itemsize != size:
        raise ValueError(f"it says {shape} of {dtype} and holds {size} bytes")
    return shape, dtype


def _look_at_npz(path: Path, most: int) -> None:
    with open(path, "rb") as start:
        if not start.read(4).startswith((b"PK\x03\x04", b"PK\x05\x06")):
            raise ValueError("it does not begin as a zip of arrays; a pickle is never opened")
    with zipfile.ZipFile(path) as archive:
        members = archive.infolist()
        if not 0 < len(members) <= _MOST_MEMBERS or len({one.filename for one in members}) < len(members):
            raise ValueError(f"it holds {len(members)} arrays; 1 to {_MOST_MEMBERS} of different names are allowed")
        if (total := sum(one.file_size for one in members)) > most:
            raise ValueError(f"its arrays unpack to {total} bytes; at most {most} are allowed")
        for one in members:
            if not one.filename.endswith(".npy"):
                raise ValueError(f"{one.filename} in it is no .npy array")
            with archive.open(one) as stream:
                try:
                    _header(stream, one.file_size)
                except ValueError as error:
                    raise ValueError(f"{one.filename}: {error}") from error


def _look_at_json(path: Path, most: int) -> None:
    if (size := path.stat().st_size) > _MOST_JSON:
        raise ValueError(f"it holds {size} bytes; at most {_MOST_JSON} are parsed")
    json.loads(path.read_bytes())


def _look_at_safetensors(path: Path, most: int) -> None:
    size = path.stat().st_size
    with open(path, "rb") as stream:
        (length,) = struct.unpack("<Q", stream.read(8))
        if length > min(_MOST_HEADER, size - 8):
            raise ValueError(f"its header claims {length} bytes of {size}")
        header = json.loads(stream.read(length))
    tensors = [tensor for name, tensor in header.items() if name != "__metadata__"] if type(header) is dict else []
    end = 0
    for tensor in sorted(tensors, key=lambda one: list(one["data_offsets"])):
        (start, stop), sides = tensor["data_offsets"], tensor["shape"]
        if any(type(number) is not int or number < 0 for number in (start, stop, *sides)):
            raise ValueError("its offsets and shapes must be whole numbers")
        if start != end or stop - start != prod(sides) * _WIDTHS[tensor["dtype"]]:
            raise ValueError("its tensors overlap, leave gaps, or are not of the size they claim")
        end = stop
    if not tensors or end != size - 8 - length:
        raise ValueError(f"its tensors fill {end} of {size - 8 - length} bytes")
