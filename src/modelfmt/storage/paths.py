"""Names that come from a file stay in its folder.

The root is the folder the user named or, where that lies in a Hugging Face cache (`models--*/snapshots/...`, whose
files are links into `models--*/blobs`), the `models--*` folder. Source: the path rules of the Hugging Face cache
layout.
"""

from __future__ import annotations

import os
from pathlib import Path, PurePosixPath

from modelfmt.errors import UnsafePath

__all__ = ["contained", "relative", "root_of"]

_FORBIDDEN = frozenset('\\:\0<>|"?*')
_MAX_PART = 255


def root_of(folder: str | os.PathLike[str]) -> Path:
    """The folder that links from `folder` may lead into."""
    resolved = Path(folder).resolve()
    for parent in (resolved, *resolved.parents):
        if parent.name.startswith("models--"):
            return parent
    return resolved


def contained(folder: str | os.PathLike[str], name: str, *, named_in: object) -> Path:
    """The path of `name` below `folder`. named_in: the file that gave the name, for the error.

    Raises UnsafePath for names that `relative` refuses, and for links that lead out.
    """
    path = Path(folder, *relative(name, named_in=named_in))
    try:
        inside = path.resolve().is_relative_to(root_of(folder))
    except (OSError, RuntimeError):  # a link that leads to itself
        inside = False
    if not inside:
        raise _unsafe(name, named_in)
    return path


def relative(name: str, *, named_in: object) -> tuple[str, ...]:
    """The parts of a name that stays below any folder it is put in.

    Raises UnsafePath for absolute names, `..`, backslashes, drive letters and control characters.
    """
    parts = PurePosixPath(name).parts
    bad = (
        not name
        or name.startswith(("/", "~"))
        or any(
            part in ("..", ".") or len(part.encode(errors="surrogatepass")) > _MAX_PART or part != part.rstrip(" .")
            for part in name.split("/")
        )
        or any(c in _FORBIDDEN or ord(c) < 32 for c in name)
        or not parts
    )
    if bad:
        raise _unsafe(name, named_in)
    return parts


def _unsafe(name: str, named_in: object) -> UnsafePath:
    return UnsafePath(
        "a file name leads out of its folder",
        path=named_in,
        found=name,
        allowed="a relative name inside the folder",
        hint="do not trust this checkpoint; if a link is intended, copy the file into the folder",
    )
