"""Features on the disk: arrays written row by row, so that a long video's tokens need no memory, and read back as sets.

What is in a folder of features, and when it may be added to, is extract.py's part.
"""

import contextlib
import os
import tempfile
from pathlib import Path

import numpy as np
from safetensors import safe_open
from safetensors.numpy import save_file

from videomae.files import new_file, path_in_errors

FORMATS = ("npy", "safetensors")
SAVE_DTYPES = ("float32", "float16")
TENSOR = "features"  # the name of the array in a safetensors file


class RowFile:
    """One array in a .npy or .safetensors file, written row by row; it takes its place when it is closed, or not at all.

    `single` writes the one row as the array, without an axis of rows. The header of a .npy file is written again at the
    end, when the number of rows is known. Rows of a .safetensors file wait in a temporary file and are copied through a
    memory map. So neither format holds the array in memory (safetensors before 0.8 does, while it copies).
    """

    def __init__(self, path: Path, dtype: str, *, single: bool = False, metadata: dict[str, str] | None = None):
        self.path, self.dtype, self.single, self.metadata = path, np.dtype(dtype), single, metadata or {}
        self.count = 0
        self.row_shape: tuple[int, ...] = ()  # known with the first row
        self._stack = contextlib.ExitStack()
        self._beside = self._stack.enter_context(new_file(path))
        opened = open(self._beside, "wb") if path.suffix == ".npy" else tempfile.TemporaryFile(dir=path.parent)  # noqa: SIM115
        self._file = self._stack.enter_context(opened)

    @property
    def shape(self) -> tuple[int, ...]:
        return self.row_shape if self.single else (self.count, *self.row_shape)

    def add(self, row: np.ndarray) -> None:
        if not self.count:
            self.row_shape = row.shape
            self._write_npy_header()
        with np.errstate(over="ignore"):  # checked below
            stored = np.ascontiguousarray(row, self.dtype)
        if not np.isfinite(stored).all():
            raise ValueError(f"{self.path}: a value does not fit into {self.dtype}; use --save_dtype float32")
        with path_in_errors(self.path):
            self._file.write(stored.tobytes())
        self.count += 1

    def close(self) -> None:
        if self.path.suffix == ".npy":
            self._file.seek(0)
            self._write_npy_header()
        else:
            self._file.flush()
            rows = np.memmap(self._file, self.dtype, "r", shape=self.shape)
            save_file({TENSOR: rows}, self._beside, self.metadata)
        self._stack.close()

    def abort(self) -> None:
        """Leave nothing behind."""
        with contextlib.suppress(_Aborted), self._stack:
            raise _Aborted

    def _write_npy_header(self) -> None:
        """Of one length whatever the number of rows: numpy pads it, so that the first axis can grow."""
        if self.path.suffix == ".npy":
            described = {"descr": np.lib.format.dtype_to_descr(self.dtype), "fortran_order": False, "shape": self.shape}
            np.lib.format.write_array_header_1_0(self._file, described)


class _Aborted(Exception):
    pass


def read_array(path: str | os.PathLike) -> np.ndarray:
    """The array of a .npy file, or of a .safetensors file that holds one or calls it "features"."""
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"{path} does not exist; give the features of one set, a .npy or .safetensors file")
    if path.suffix == ".npy":
        try:
            return np.load(path, allow_pickle=False)
        except (ValueError, EOFError) as error:
            raise ValueError(f"{path} is not an array that numpy can read: {error}") from None
    if path.suffix != ".safetensors":
        raise ValueError(f"{path} is neither .npy nor .safetensors")
    try:
        with safe_open(path, "np") as file:
            names = list(file.keys())
            name = TENSOR if TENSOR in names else names[0] if len(names) == 1 else None
            if name is None:
                raise ValueError(f'{path} holds {len(names)} arrays and none is called "{TENSOR}"')
            return file.get_tensor(name)
    except Exception as error:  # safetensors raises a class of its own that is no ValueError
        raise error if isinstance(error, (ValueError, OSError)) else ValueError(f"{path}: {error}") from None
