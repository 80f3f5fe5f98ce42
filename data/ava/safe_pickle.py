"""Pickles of arrays opened without running what they may contain."""

import pickle
import re
from collections import OrderedDict
from typing import Any, Literal

import numpy as np


class _PickledType:
    """What stands for a numpy dtype while a pickle is read: a number type and its byte order, nothing else."""

    def __init__(self, code: str, *_: Any):
        if not re.fullmatch(r"[biuf]\d+", str(code)):
            raise pickle.UnpicklingError(f"it has values of type {code!r}, which are not numbers")
        self.dtype = np.dtype(str(code))

    def __setstate__(self, state: tuple) -> None:
        self.dtype = self.dtype.newbyteorder("=" if state[1] == "|" else state[1])


class _PickledArray:
    """What stands for a numpy array while a pickle is read."""

    def __init__(self, *_: Any):
        self.array = np.zeros(0, dtype=np.float32)

    def __setstate__(self, state: tuple) -> None:
        _, shape, of, fortran, content = state
        self.array = self.of_bytes(content, of, shape, "F" if fortran else "C").array

    @classmethod
    def of_bytes(cls, content: Any, of: _PickledType, shape: Any, order: Literal["F", "C"]) -> "_PickledArray":
        made = cls()
        content = content.encode("latin1") if isinstance(content, str) else content  # Python 2's bytes
        made.array = np.frombuffer(content, of.dtype).reshape(shape, order=order)
        return made


def _pickled_number(of: _PickledType, content: Any) -> Any:
    return _PickledArray.of_bytes(content, of, (), "C").array[()]


def _pickled_bytes(text: str, encoding: str) -> bytes:
    if encoding != "latin1":  # the one that pickles of bytes use; others are modules to be looked up
        raise pickle.UnpicklingError(f"it asks for text as {encoding!r}")
    return text.encode("latin1")


def unwrapped(value: Any) -> Any:
    if isinstance(value, (list, tuple)):
        return [unwrapped(entry) for entry in value]
    return value.array if isinstance(value, _PickledArray) else value


class ArraysOnly(pickle.Unpickler):
    """Builds dicts, lists, numbers, texts and arrays of numbers; a pickle that asks for anything else is refused.

    Not even numpy's own classes are handed to it: `numpy.ndarray`, called with a buffer and the type "object", takes
    bytes of the file for addresses.
    """

    KNOWN = {
        **{
            (f"{package}.{module}", name): stand_in
            for package in ("numpy.core", "numpy._core")
            for module, name, stand_in in (
                ("multiarray", "_reconstruct", _PickledArray),
                ("multiarray", "scalar", _pickled_number),
                ("numeric", "_frombuffer", _PickledArray.of_bytes),
            )
        },
        ("numpy", "ndarray"): "ndarray",  # named in arrays, never called
        ("numpy", "dtype"): _PickledType,
        ("_codecs", "encode"): _pickled_bytes,
        ("collections", "OrderedDict"): OrderedDict,
    }

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in self.KNOWN:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}")
        return self.KNOWN[module, name]
