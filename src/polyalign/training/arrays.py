"""Arrays that are made once, kept in the user's cache and memory-mapped: larger than memory, shared by processes."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Self

import numpy as np
from filelock import FileLock
from numpy.typing import DTypeLike

from polyalign.errors import UserError
from polyalign.storage import MANIFEST, fingerprint_files, new_folder, read_manifest, write_json

log = logging.getLogger(__name__)


class ArrayWriter:
    """Files of numbers that grow by blocks, so that what is written need not fit in memory.

    Args:
        folder: gets one file per array.
        dtypes: of each array, by its name.
    """

    def __init__(self, folder: Path, dtypes: Mapping[str, DTypeLike]) -> None:
        self._folder = folder
        self._dtypes = {name: np.dtype(dtype) for name, dtype in dtypes.items()}
        self._shapes: dict[str, tuple[int, ...]] = dict.fromkeys(dtypes, (0,))
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        self._files = {name: self._stack.enter_context(_path(self._folder, name).open("wb")) for name in self._dtypes}
        return self

    def __exit__(self, *error: object) -> None:
        self._stack.close()

    def append(self, **blocks: np.ndarray) -> None:
        """Append a block to each of the named arrays; all blocks of an array agree in all axes but the first."""
        for name, block in blocks.items():
            self._files[name].write(np.ascontiguousarray(block, dtype=self._dtypes[name]).data)
            self._shapes[name] = (self._shapes[name][0] + len(block), *block.shape[1:])

    def described(self) -> dict[str, Any]:
        """Return what `made_once` needs of the arrays, for the manifest."""
        for file in self._files.values():
            file.flush()
        return {
            name: {"dtype": dtype.str, "shape": self._shapes[name], "xxh3": _digest(self._folder, name)}
            for name, dtype in self._dtypes.items()
        }


def made_once(
    folder: Path, make: Callable[[ArrayWriter], dict[str, Any]], dtypes: Mapping[str, DTypeLike]
) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Return what ``make`` has told and written, now or whenever it was called for ``folder`` first.

    The folder appears whole or not at all; a damaged one is made again. Another process that wants it waits.

    Args:
        folder: names all that the arrays depend on.
        make: appends to a writer and returns what else is to be kept, as JSON has it.
        dtypes: of each array, by its name.

    Returns:
        What ``make`` returned, and the arrays, memory-mapped and read-only.
    """
    if (found := _opened(folder)) is not None:
        return found
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(folder.with_name(f".{folder.name}.lock")):
        if (found := _opened(folder)) is not None:  # another process has made it meanwhile
            return found
        if folder.exists():
            log.warning("%s is damaged and is made again", folder)
        with new_folder(folder) as partial, ArrayWriter(partial, dtypes) as writer:
            about = make(writer)
            write_json(partial / MANIFEST, {"about": about, "arrays": writer.described()})
    found = _opened(folder)
    if found is None:
        raise RuntimeError(f"{folder} cannot be read back")
    return found


def spans(starts: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """Return the positions that spans cover, one span after the other, int64 [sum of the lengths].

    Args:
        starts: int64 [n].
        lengths: int64 [n].
    """
    before = lengths.cumsum() - lengths
    return np.repeat(starts - before, lengths) + np.arange(lengths.sum())


def _opened(folder: Path) -> tuple[dict[str, Any], dict[str, np.ndarray]] | None:
    """Return the contents of a folder; None where it is missing, incomplete or damaged."""
    try:
        manifest = read_manifest(folder)
        if manifest is None:
            return None
        arrays = {}
        for name, about in manifest["arrays"].items():
            if _digest(folder, name) != about["xxh3"]:
                return None
            arrays[name] = _mapped(_path(folder, name), about["dtype"], tuple(about["shape"]))
        return manifest["about"], arrays
    except (UserError, OSError, KeyError, TypeError, AttributeError):
        return None


def _mapped(path: Path, dtype: str, shape: tuple[int, ...]) -> np.ndarray:
    if 0 in shape:  # an empty file cannot be mapped
        return np.empty(shape, dtype)
    # A plain view: slices of a memmap are memmaps, which cost microseconds each.
    return np.memmap(path, dtype=dtype, mode="r", shape=shape).view(np.ndarray)


def _path(folder: Path, name: str) -> Path:
    return folder / f"{name}.bin"


def _digest(folder: Path, name: str) -> str:
    return fingerprint_files([_path(folder, name)], folder)
