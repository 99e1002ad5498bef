"""A seeded mutator over pickles, PyTorch, joblib, NumPy and skops files: no exception but ModelfmtError, no hang, no
memory past the budget.

The seeds are honest files of every form (also compressed ones, of which what is inside is changed), the corpus of
hostile_pickles, and pickles grown from opcodes. A short run is part of the tests; the long one is

    python tests/fuzz_pickles.py --count 200000 --seed 1

It prints one line: files, seconds, how many were opened, the slowest, the peak of memory. The first failure ends it,
with the file in the traceback.
"""

from __future__ import annotations

import argparse
import io
import json
import pickle
import random
import resource
import struct
import sys
import time
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import torch

import hostile_pickles
import other_files
from modelfmt.errors import ModelfmtError
from modelfmt.formats import npy, npz, pytorch, skops
from modelfmt.ir.record import Texts, walk
from modelfmt.pickles.opcodes import OPCODES
from modelfmt.storage.files import Files
from modelfmt.tiles import Evaluator

SECONDS = 2.0
MEMORY = 1 << 30
MAX_SEED = 20_000
NUMBERS = (0, 1, 2, 127, 128, 255, 65535, 2**31 - 1, 2**31, 2**32 - 1, 2**61, 2**63 - 1, 2**63, 2**64 - 1)
ARGUMENTS = (
    b"", b"\0", b"\1", b"\xff", b"\x02\0", b"\4\0\0\0abcd", b"\xff\xff\xff\xff", b"os\nsystem\n", b"12\n", b"'a'\n",
    b"torch\nFloatStorage\n", b"torch._utils\n_rebuild_tensor_v2\n", b"collections\nOrderedDict\n", b"a\n",
    struct.pack("<Q", 3) + b"abc",
)  # fmt: skip


def seeds() -> list[bytes]:
    """Honest and hostile files, none larger than MAX_SEED."""
    plain = torch.arange(12, dtype=torch.float32).reshape(3, 4)
    value: dict[str, Any] = {
        "a": plain,
        "b": plain.T,
        "c": plain,
        "d": {"e": [torch.ones(2).bfloat16(), {1, (2, "x")}]},
    }
    value["state_dict"] = OrderedDict(
        w=torch.nn.Parameter(plain), n=np.arange(5.0), u=torch.zeros(2, dtype=torch.uint16)
    )
    found = []
    for protocol in range(6):
        found.append(pickle.dumps(value, protocol))
        for form in (True, False):
            if protocol:
                held = io.BytesIO()
                torch.save(value, held, pickle_protocol=protocol, _use_new_zipfile_serialization=form)
                found.append(held.getvalue())
    with zipfile.ZipFile(io.BytesIO(next(data for data in found if data[:2] == b"PK"))) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    found.append(hostile_pickles.zipped(members, zipfile.ZIP_DEFLATED))
    return (
        found * 20
        + list(other_files.everything().values()) * 12
        + [data for data in hostile_pickles.corpus().values() if len(data) < MAX_SEED]
    )


def inner_pickles(archives: list[bytes]) -> list[bytes]:
    """The pickles of the honest archives; a change in one is followed, a change in its archive ends at the checksum."""
    found = set()
    for data in archives[:20]:
        if data[:2] == b"PK":
            with zipfile.ZipFile(io.BytesIO(data)) as archive:
                found.add(archive.read("archive/data.pkl"))
    return sorted(found)


class Mutator:
    """Bytes from seeds; the same for the same number."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.seeds = seeds()
        self.others = list(other_files.everything().values())
        self.inner = [
            *inner_pickles(self.seeds),
            b"}S'w'\n" + hostile_pickles.tensor() + b"s.",
            b"\x80\x02}S'w'\n" + hostile_pickles.dtensor() + b"s.",
        ]

    def next(self) -> bytes:
        """Another file."""
        kind = self.random.random()
        if kind > 0.95:
            return self.packed()
        data = self.grown() if kind < 0.2 else bytearray(self.random.choice(self.inner if kind < 0.4 else self.seeds))
        for _ in range(self.random.choice((0, 1, 1, 2, 3, 8))):
            self.change(data)
        return hostile_pickles.checkpoint(bytes(data)) if kind < 0.4 and self.random.random() < 0.8 else bytes(data)

    def packed(self) -> bytes:
        """A changed pickle in an honest stream, or a changed array in an honest archive."""
        data = bytearray(self.random.choice(self.others))
        for _ in range(self.random.choice((0, 1, 2, 4))):
            self.change(data)
        if data[:1] in (b"\x80", b"\x93"):
            pack = self.random.choice([*other_files.COMPRESSIONS.values(), None, None])
            if pack is not None:
                return bytes(pack(bytes(data)))
            members = {
                "a.npy": bytes(data),
                "schema.json": json.dumps(other_files.SCHEMA).encode(),
                "1.npy": bytes(data),
            }
            names = self.random.choice((("a.npy",), ("schema.json", "1.npy")))
            return hostile_pickles.zipped({name: members[name] for name in names}, self.random.choice((0, 8)))
        return bytes(data)

    def grown(self) -> bytearray:
        """A pickle of random opcodes."""
        codes = list(OPCODES)
        data = bytearray(b"\x80\x04") if self.random.random() < 0.7 else bytearray()
        for _ in range(self.random.randrange(1, 60)):
            piece = self.random.choice(
                (
                    bytes([self.random.choice(codes)]) + self.random.choice(ARGUMENTS),
                    hostile_pickles.tensor(),
                    b"K\1",
                    b"}",
                    b"(",
                )
            )
            data += piece
        return data + b"."

    def change(self, data: bytearray) -> None:
        """One change in place."""
        source = self.random
        at = source.randrange(len(data)) if data else 0
        kind = source.randrange(9)
        if not data or kind == 0:
            data[at:at] = source.randbytes(source.randrange(1, 9))
        elif kind == 1:
            data[at] = source.choice(list(OPCODES))
        elif kind == 2:
            data[at] ^= 1 << source.randrange(8)
        elif kind == 3:
            form = source.choice(("<I", "<Q", "<H"))
            mask = (1 << (8 * struct.calcsize(form))) - 1
            data[at : at + struct.calcsize(form)] = struct.pack(form, source.choice(NUMBERS) & mask)
        elif kind == 4:
            del data[at : at + source.randrange(1, 12)]
        elif kind == 5:
            length = source.randrange(1, 64)
            data[at:at] = data[at : at + length] * source.randrange(1, 4)
        elif kind == 6:
            other = source.choice(self.seeds)
            begin = source.randrange(len(other)) if other else 0
            data[at:at] = other[begin : begin + source.randrange(1, 80)]
        elif kind == 7:
            data[at:at] = source.choice(ARGUMENTS)
        else:
            del data[at:]


def reader(data: bytes) -> Any:
    """What reads a file, by its first bytes and the names in it, as `modelfmt.open` chooses."""
    if npy.sniff(data):
        return npy.read
    if data[:2] == b"PK" and not pytorch.sniff(data[:4096]):
        return skops.read if b"schema.json" in data else npz.read
    return pytorch.read


def attempt(data: bytes) -> bool:
    """True where the file was opened; tensors that were promised are read."""
    files = Files()
    files.register("memory", data)
    try:
        model = reader(data)("memory", files, Evaluator(files))
        for tensor in model.values():
            if tensor.nbytes < 1 << 20:
                tensor.numpy(dequantize=False)
        for _, value in walk(model.content):
            if isinstance(value, Texts) and value.codes.nbytes < 1 << 20:
                value.tolist()
        assert all(isinstance(record.params, dict) and record.steps is not None for record in model.records.values())
    except ModelfmtError as error:
        str(error)
        return False
    return True


def run(count: int, seed: int) -> dict[str, Any]:
    """Figures of `count` files. Raises what the reader should not have raised, with the file as a note."""
    mutator = Mutator(seed)
    opened, slowest, began = 0, 0.0, time.monotonic()
    for number in range(count):
        data = mutator.next()
        started = time.process_time()
        try:
            opened += attempt(data)
        except BaseException as error:
            error.add_note(f"file {number} of seed {seed}: {data[:2000]!r}")
            raise
        seconds = time.process_time() - started
        slowest = max(slowest, seconds)
        assert seconds < SECONDS, f"file {number} of seed {seed} took {seconds:.1f} s: {data[:2000]!r}"
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10
    return {
        "files": count,
        "seconds": round(time.monotonic() - began),
        "opened": opened,
        "slowest": slowest,
        "peak_mb": peak,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=200_000)
    parser.add_argument("--seed", type=int, default=1)
    given = parser.parse_args()
    torch.zeros(1)
    resource.setrlimit(resource.RLIMIT_DATA, (MEMORY, MEMORY))
    print(run(given.count, given.seed))


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parent))
    main()
