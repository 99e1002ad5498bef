"""What loading a file would do: what it would import and call, with which arguments, and where. Nothing is loaded.

`modelfmt.scan` looks at files, folders and archives by their content, whatever their names say. `names` says what a
name means, `carriers` where pickles and other code can hide.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import msgspec

from modelfmt.errors import SourceMissing
from modelfmt.scanning.carriers import look, refusals
from modelfmt.scanning.findings import DANGEROUS, SAFE, UNKNOWN, VERDICTS, Finding
from modelfmt.storage.files import Files
from modelfmt.storage.region import Region

__all__ = ["DANGEROUS", "SAFE", "UNKNOWN", "FileScan", "Finding", "ScanReport", "scan"]


class FileScan(msgspec.Struct, frozen=True):
    """One file. verdict: the worst of its findings; "safe" where nothing would run. names: everything a loader would
    import."""

    path: str
    verdict: str
    findings: tuple[Finding, ...]
    names: tuple[str, ...]


class ScanReport(msgspec.Struct, frozen=True):
    """Every file that was looked at. verdict: the worst of all."""

    verdict: str
    files: tuple[FileScan, ...]
    schema: str = "modelfmt.scan/1"

    def to_json(self) -> bytes:
        """The same as JSON."""
        return msgspec.json.encode(self)


def scan(path: str | os.PathLike[str]) -> ScanReport:
    """Say what loading a file, or every file of a folder, would import and call.

    A file is "dangerous" where a loader would run something that is not known to be harmless, "unknown" where code of a
    package would be imported or a part could not be looked at, else "safe". Raises SourceMissing.
    """
    root = Path(path)
    if not root.exists():
        raise SourceMissing("no such file or folder", path=path)
    files = tuple(_file(place) for place in _files(root))
    return ScanReport(worst(row.verdict for row in files), files)


def _files(root: Path) -> Iterator[Path]:
    if not root.is_dir():
        yield root
        return
    for folder, _, names in os.walk(root):
        yield from (Path(folder, name) for name in sorted(names))


def _file(path: Path) -> FileScan:
    files = Files()
    try:
        region = Region.whole(str(path), files)
        found = look(region, path.name)
        if not any(row.verdict == DANGEROUS or row.rule in ("damaged", "archive") for row in found.findings):
            found.findings += refusals(region)
    except SourceMissing as error:
        finding = Finding(UNKNOWN, "unreadable", error.message, 0)
        return FileScan(str(path), UNKNOWN, (finding,), ())
    finally:
        files.close()
    return FileScan(str(path), worst(row.verdict for row in found.findings), tuple(found.findings), tuple(found.names))


def worst(verdicts: Iterator[str]) -> str:
    """The worst verdict; "safe" for none."""
    return max(verdicts, key=VERDICTS.index, default=SAFE)
