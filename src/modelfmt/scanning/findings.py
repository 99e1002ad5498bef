"""Findings as plain data, and as SARIF 2.1.0 for tools that show them beside code."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import msgspec

__all__ = ["DANGEROUS", "SAFE", "UNKNOWN", "VERDICTS", "Finding", "sarif"]

SAFE, UNKNOWN, DANGEROUS = "safe", "unknown", "dangerous"
VERDICTS = (SAFE, UNKNOWN, DANGEROUS)
"""From the best to the worst."""

_LEVELS = {UNKNOWN: "warning", DANGEROUS: "error"}


class Finding(msgspec.Struct, frozen=True):
    """Something that a loader would do, or that could not be looked at.

    verdict: unknown or dangerous. rule: stable kebab-case. offset: byte in the file or, where `member` says so, in that
    member of an archive. name: what would be imported or called; arguments: with what, shortened.
    """

    verdict: str
    rule: str
    reason: str
    offset: int
    member: str = ""
    name: str = ""
    arguments: str = ""


def sarif(rows: Iterable[tuple[str, Finding]], version: str) -> dict[str, Any]:
    """Findings with the paths of their files as a SARIF log."""
    results = []
    rules: dict[str, dict[str, Any]] = {}
    for path, row in rows:
        rules.setdefault(row.rule, {"id": row.rule, "shortDescription": {"text": row.reason}})
        what = f"{row.reason}: {row.name}{row.arguments}" if row.name else row.reason
        where = {"artifactLocation": {"uri": path}, "region": {"byteOffset": row.offset, "byteLength": 0}}
        location: dict[str, Any] = {"physicalLocation": where}
        if row.member:
            location["logicalLocations"] = [{"fullyQualifiedName": row.member}]
        result = {"ruleId": row.rule, "level": _LEVELS[row.verdict], "message": {"text": what}, "locations": [location]}
        results.append(result)
    driver = {"name": "modelfmt", "version": version, "rules": list(rules.values())}
    return {
        "version": "2.1.0",
        "$schema": "https://json.schemastore.org/sarif-2.1.0.json",
        "runs": [{"tool": {"driver": driver}, "results": results}],
    }
