"""Looks at files of weights without loading them: whether they are whole, and what they take in memory."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

_LARGEST_HEADER_BYTES = 100 << 20
_LARGEST_CONFIG_BYTES = 16 << 20
_BITS = {"F64": 64, "F32": 32, "F16": 16, "BF16": 16, "F8_E4M3": 8, "F8_E5M2": 8, "I64": 64, "I32": 32, "I16": 16}
_BITS |= {"I8": 8, "U8": 8, "BOOL": 8}
# What weights of floating point become when they are loaded, in bytes.
DTYPE_BYTES = {"bfloat16": 2, "float16": 2, "float32": 4}

# What files of weights are called that can run code while they are read.
_PROGRAMS = frozenset({".bin", ".ckpt", ".pickle", ".pkl", ".pt", ".pth"})


class BrokenFile(Exception):
    """A file is not what its name says; the message is a sentence."""


def can_run_code(file: Path) -> bool:
    """Tell by its name whether a file is of a format that runs code while it is read; no engine here reads these."""
    return file.suffix.lower() in _PROGRAMS


def safetensors_in(source: Path) -> list[Path]:
    """Return the files of weights of a model: the file itself, or those of its folder, without doubles.

    A folder of diffusers may hold each file twice, once as `….fp16.safetensors`; then that one is left out.
    """
    if source.is_file():
        return [source] if source.suffix == ".safetensors" else []
    files = sorted(source.rglob("*.safetensors"))
    names = set(files)
    return [file for file in files if not _is_double(file, names)]


def _is_double(file: Path, names: set[Path]) -> bool:
    whole = file.with_name(file.name.replace(".fp16", ""))
    return whole != file and whole in names


def memory_bytes(files: list[Path], dtype: str) -> int:
    """Return what the weights of some files take once they are loaded as `dtype`; any other name keeps their own.

    Raises:
        BrokenFile: one of them cannot be read, is cut off, or is no safetensors file.
    """
    return sum(elements * _loaded_bytes(kind, dtype) for file in files for kind, elements in _tensors(file))


def elements_in(file: Path) -> int:
    """Return how many numbers the weights in a file are.

    Raises:
        BrokenFile: it cannot be read, is cut off, or is no safetensors file.
    """
    return sum(elements for _, elements in _tensors(file))


def named_in(index: Path) -> set[str]:
    """Return the files that an index of weights in several files (`….safetensors.index.json`) names.

    The libraries read whatever it names, and other formats can run code while they are read.

    Raises:
        BrokenFile: it cannot be read, or names something else than safetensors files beside it.
    """
    try:
        names = set(json.loads(index.read_text("utf-8"))["weight_map"].values())
    except OSError as error:
        raise BrokenFile(f"{index} cannot be read ({error.strerror})") from None
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise BrokenFile(f"{index} is no index of weights, or is broken") from None
    for name in names:
        if not isinstance(name, str) or not name.endswith(".safetensors") or "/" in name or "\\" in name:
            raise BrokenFile(f"{index} names {name!r}, and only safetensors files beside it are read")
    return names


def check_configs(folder: Path) -> None:
    """Look at how large the configurations in a folder are: the libraries read them whole, whatever their size.

    Raises:
        BrokenFile: one is larger than any that was ever written.
    """
    for file in sorted(folder.glob("*config.json")):
        if (size := file.stat().st_size) > _LARGEST_CONFIG_BYTES:
            raise BrokenFile(f"{file} has {size} bytes, and no configuration has more than {_LARGEST_CONFIG_BYTES}")


def _loaded_bytes(kind: str, dtype: str) -> int:
    own = math.ceil(_BITS.get(kind, 16) / 8)
    return DTYPE_BYTES.get(dtype, own) if kind in ("F64", "F32", "F16", "BF16") else own


def _tensors(file: Path) -> Iterator[tuple[str, int]]:
    """Yield the type and the number of elements of each tensor, as the header of a file tells them.

    The format is eight bytes with the size of the header, the header as JSON, and the data (safetensors, "Format").
    """
    try:
        size = file.stat().st_size
        with file.open("rb") as opened:
            header_bytes = int.from_bytes(opened.read(8), "little")
            if not 2 <= header_bytes <= min(_LARGEST_HEADER_BYTES, size - 8):
                raise BrokenFile(f"{file} is no safetensors file, or is cut off")
            header = json.loads(opened.read(header_bytes))
        tensors = [tensor for name, tensor in header.items() if name != "__metadata__"]
        end = max((int(tensor["data_offsets"][1]) for tensor in tensors), default=0)
        found = [(str(tensor["dtype"]), _elements(tensor["shape"])) for tensor in tensors]
    except OSError as error:
        raise BrokenFile(f"{file} cannot be read ({error.strerror})") from None
    except (ValueError, KeyError, TypeError, AttributeError, IndexError, RecursionError):
        raise BrokenFile(f"{file} is no safetensors file, or is broken") from None
    if 8 + header_bytes + end != size:
        raise BrokenFile(f"{file} has {size} bytes where its header says {8 + header_bytes + end}: it is cut off")
    yield from found


def _elements(shape: list[Any]) -> int:
    """Return how many numbers a tensor is. Raises ValueError when that is no shape."""
    if not all(isinstance(side, int) and side >= 0 for side in shape):
        raise ValueError(f"{shape} is no shape")
    return math.prod(shape)
