"""joblib's arrays: raw bytes that stand in the middle of a pickle, behind the object that describes them.

Source: joblib/numpy_pickle.py (NumpyArrayWrapper.write_array) of joblib 0.9 to 1.6. After BUILD come, where the object
has numpy_array_alignment_bytes, one byte with the length of the padding, the padding, and the array; for arrays of
objects, a pickle. `skip_array` is what Machine calls after each BUILD.
"""

from __future__ import annotations

from math import prod
from typing import Any

from modelfmt.pickles.machine import Machine, load
from modelfmt.pickles.tree import entries, integers, text
from modelfmt.pickles.values import Call

__all__ = ["skip_array"]

_WRAPPERS = ("joblib.numpy_pickle.NumpyArrayWrapper", "sklearn.externals.joblib.numpy_pickle.NumpyArrayWrapper")
_ALIGNMENT = "numpy_array_alignment_bytes"


def skip_array(machine: Machine, call: Call) -> None:
    """Move the machine past the bytes that belong to an array; a pickle in their place is followed and recorded."""
    if call.name not in _WRAPPERS:
        return
    state = entries(call.states[-1]) or {}
    shape, size = integers(state.get("shape")), item_size(state.get("dtype"))
    stream = machine.stream
    if shape is None or min(shape, default=0) < 0:
        raise machine.corrupt("an array without a shape", "array-shape")
    if size is None:
        inner = load(stream.region, stream.at, on_build=skip_array)
        machine.result.globals_ += inner.globals_
        machine.result.calls += inner.calls
        machine.spend(100 * len(inner.calls))
        stream.seek(inner.end)
        return
    if state.get(_ALIGNMENT) is not None:
        stream.skip(stream.take(1)[0])
    stream.skip(prod(shape) * size)


def item_size(value: Any) -> int | None:
    """Bytes of an element of the dtype that a call describes; None for objects and what is not known."""
    if not isinstance(value, Call) or value.name != "numpy.dtype" or not value.args:
        return None
    name = (text(value.args[0]) or "").lstrip("<>=|")
    if name[:1] not in tuple("biufcSUVmM") or not name[1:].isdigit() or len(name) > 10:
        return None
    return int(name[1:]) * (4 if name[0] == "U" else 1)
