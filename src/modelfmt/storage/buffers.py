"""Memory that goes round: large arrays whose pages a worker has already, instead of new ones for every tile.

An array of more than a few hundred kilobytes comes straight from the operating system and goes back to it, and each of
its pages is a fault and is zeroed; that takes as long as moving codes does.
"""

from __future__ import annotations

import threading
import weakref
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

__all__ = ["Buffers"]

LINE = 64
"""Bytes of a cache line."""
SMALL = 1 << 17
"""Bytes below which the allocator keeps memory itself."""
KEPT = 1 << 27
"""Bytes that may wait for their next use: a few of the largest tiles. With less, more is held in all, since memory that
goes back to the system does not go at once."""


class Buffers:
    """Uninitialised arrays over memory that is used again once nothing refers to it: neither the array nor a view.

    Safe to share between threads.
    """

    def __init__(self) -> None:
        self._free: list[NDArray[np.uint8]] = []
        self._lock = threading.RLock()  # an array may die wherever memory is allocated, also inside `empty`

    def empty(self, n_rows: int, row_bytes: int) -> NDArray[np.uint8]:
        """uint8 [n_rows, row_bytes], C-contiguous, aligned to any number; large ones begin with a cache line."""
        import numpy as np

        size = n_rows * row_bytes
        if size < SMALL:
            return np.empty((n_rows, row_bytes), np.uint8)
        memory = self._taken(size + LINE)
        if memory is None:
            memory = np.empty(size + LINE, np.uint8)
        begin = -memory.ctypes.data % LINE
        lent = np.frombuffer(memory.data, np.uint8, size, begin)  # every view of it keeps it alive
        weakref.finalize(lent, self._return, memory).atexit = False
        return lent.reshape(n_rows, row_bytes)

    def _taken(self, size: int) -> NDArray[np.uint8] | None:
        with self._lock:
            for i, memory in enumerate(self._free):
                if size <= memory.size <= 2 * size:
                    return self._free.pop(i)
        return None

    def _return(self, memory: NDArray[np.uint8]) -> None:
        with self._lock:
            self._free.append(memory)
            while sum(kept.size for kept in self._free) > KEPT:
                del self._free[0]
