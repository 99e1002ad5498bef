"""Memory that goes round: never while something refers to it."""

from __future__ import annotations

import threading

import numpy as np
from numpy.typing import NDArray

from modelfmt.storage.buffers import KEPT, Buffers

SIZE = 1 << 18


def place(array: NDArray[np.uint8]) -> int:
    return int(array.__array_interface__["data"][0])


def test_memory_comes_again_once_nothing_refers_to_it() -> None:
    buffers = Buffers()
    first = buffers.empty(4, SIZE)
    at, view = place(first), first[1:].reshape(-1).view("V16")
    del first
    other = buffers.empty(4, SIZE)
    assert place(other) != at  # a view is left
    del view
    assert place(buffers.empty(2, SIZE)) == at
    assert buffers.empty(3, 5).shape == (3, 5)


def test_a_memoryview_keeps_memory() -> None:
    buffers = Buffers()
    data = buffers.empty(1, SIZE).reshape(-1).data
    data[:] = b"a" * SIZE
    buffers.empty(1, SIZE)[:] = 0
    assert bytes(data) == b"a" * SIZE


def test_what_waits_is_bounded() -> None:
    buffers = Buffers()
    held = [buffers.empty(1, 1 << 22) for _ in range(KEPT // (1 << 22) + 3)]
    held.clear()
    assert sum(kept.size for kept in buffers._free) <= KEPT


def test_threads_never_share_memory() -> None:
    buffers, faults = Buffers(), []

    def work(number: int) -> None:
        for _ in range(300):
            mine = buffers.empty(1, SIZE)
            mine[:] = number
            if not (mine[0, ::4096] == number).all():
                faults.append(number)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not faults
