"""A seeded mutator over fitted estimators as they were read: attributes change their values, shapes and types, trees
their children. No exception but ModelfmtError, no hang, and what converts is a graph that onnx accepts.

A short run is part of the tests; the long one is

    python tests/fuzz_classical.py --count 50000 --seed 1
"""

from __future__ import annotations

import argparse
import copy
import math
import pickle
import random
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

import classical_models
import classical_tables
import modelfmt
from modelfmt.arrays.dtypes import DESCRIPTIONS
from modelfmt.errors import ModelfmtError
from modelfmt.graphs.classical.build import from_record
from modelfmt.ir.ops import Constant
from modelfmt.ir.record import Name, Objects, Record, Table, Texts, walk
from modelfmt.ir.tensor import Tensor

SECONDS = 5.0
VALUES: tuple[Any, ...] = (
    None, True, False, 0, 1, -1, 2, 3, 7, 2**31, 2**62, -(2**70), 0.0, -0.5, 1e-300, 1e308, math.nan, math.inf,
    "", "ovr", "nan", "euclidean", "passthrough", "drop", "\ud800", b"x", (), [], {}, (1, 2), [None], {"a": 1}, 1j,
    slice(None, None, 0), Name("numpy.log1p"), Name("os.system"),
)  # fmt: skip
ENTRIES = (0, 1, -1, 2, 3, -2, 100, 2**31, -(2**31), 2**53, math.nan, math.inf, -math.inf, 1e-308, 1e308)


ENCODING_OF = {text: name for name, text in DESCRIPTIONS.items()}


class Mutator:
    """Changes copies of what was read. seeds: (name, content)."""

    def __init__(self, seed: int, seeds: list[tuple[str, Any]]) -> None:
        self.random = random.Random(seed)
        self.seeds = seeds

    def next(self) -> tuple[str, Any]:
        """A name and a changed content."""
        name, content = self.random.choice(self.seeds)
        memo: dict[int, Any] = {id(tensor): tensor for _, tensor in walk(content) if isinstance(tensor, Tensor | Texts)}
        changed = copy.deepcopy(content, memo)
        for _ in range(self.random.choice((1, 1, 2, 4))):
            self.change(changed)
        return name, changed

    def change(self, content: Any) -> None:
        """Put something else in the place of one value."""
        places = [(held, key) for held in self.containers(content) for key in keys(held)]
        held, key = self.random.choice(places)
        old = held[key]
        new = self.value(old, content) if self.random.random() < 0.8 else self.random.choice(VALUES)
        held[key] = new

    def containers(self, content: Any) -> list[Any]:
        found, waiting, seen = [], [content], set()
        while waiting:
            one = waiting.pop()
            if id(one) in seen:
                continue
            seen.add(id(one))
            parts: Any = one.attributes if isinstance(one, Record) else one.columns if isinstance(one, Table) else one
            parts = parts.items if isinstance(parts, Objects) else parts
            if isinstance(parts, dict | list) and parts:
                found.append(parts)
            if isinstance(parts, dict | list | tuple):
                waiting += parts.values() if isinstance(parts, dict) else parts
        return found

    def value(self, old: Any, content: Any) -> Any:
        """Something that is nearly the old value."""
        if isinstance(old, Tensor):
            return self.tensor(old)
        if isinstance(old, Record):
            records = [one for _, one in walk(content) if isinstance(one, Record)]
            return self.random.choice(records)
        if isinstance(old, list | tuple):
            items = list(old)
            self.random.shuffle(items)
            items = items[: self.random.randint(0, len(items))] or items * 2
            return type(old)(items) if type(old) in (list, tuple) else items
        if isinstance(old, bool):
            return not old
        if isinstance(old, int | float):
            return self.random.choice((old + 1, -old, old * 1000, 0.5, *ENTRIES))
        if isinstance(old, str):
            return self.random.choice(("", old + "x", old[:-1], old.upper(), "l1", "auto"))
        return self.random.choice(VALUES)

    def tensor(self, old: Tensor) -> Any:
        """An array of other numbers, or of another shape."""
        array = np.array(old.numpy())
        how = self.random.randrange(5)
        if how == 0 and array.size:
            with np.errstate(all="ignore"):
                array.reshape(-1)[self.random.randrange(array.size)] = np.float64(self.random.choice(ENTRIES)).astype(
                    array.dtype
                )
        elif how == 1:
            array = array[: self.random.randint(0, len(array))] if array.ndim else array.reshape(1, 1)
        elif how == 2:
            array = np.concatenate([array, array]) if array.ndim else array
        elif how == 3:
            array = array.reshape(self.random.choice([(-1,), (1, -1), (-1, 1)]))
        else:
            with np.errstate(all="ignore"):
                array = array.astype(self.random.choice(["f4", "i8", "u1", "f8", "?"]))
        return Tensor("", Constant(array.tobytes(), array.shape, ENCODING_OF[array.dtype.str]), old.reader)


def keys(held: Any) -> list[Any]:
    """Keys of a dict, indices of a list."""
    return list(held) if isinstance(held, dict) else list(range(len(held)))


def seeds(every: int, folder: Path) -> list[tuple[str, Any]]:
    """One of each few of the models, as it is read from its pickle."""
    found = []
    for number, (name, (make, _)) in enumerate(list(classical_tables.everything().items())[::every]):
        (folder / f"{number}.pkl").write_bytes(pickle.dumps(classical_models.fit(make)))
        found.append((name, modelfmt.open(folder / f"{number}.pkl").content))
    return found


def run(count: int, seed: int, every: int, folder: Path) -> Counter[str]:
    """Convert so many changed estimators; how many became a graph, and how many ended with each code."""
    mutator = Mutator(seed, seeds(every, folder))
    found: Counter[str] = Counter()
    for number in range(count):
        name, content = mutator.next()
        begin = time.monotonic()
        try:
            from_record(content, "a.pkl")
            found["graph"] += 1
        except ModelfmtError as error:
            found[error.code] += 1
        except Exception as error:
            error.add_note(f"number {number} of seed {seed}: {name}")
            raise
        assert time.monotonic() - begin < SECONDS, (name, number)
    return found


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--count", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=1)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        sys.stdout.write(f"{dict(run(given.count, given.seed, 1, Path(place)).most_common())}\n")
