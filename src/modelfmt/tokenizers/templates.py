"""Chat templates: the default one and the named ones. They are data; nothing here renders them.

Sources, in the order in which transformers looks: `chat_template` in tokenizer_config.json (a string or a list of named
templates), chat_template.jinja with additional_chat_templates/*.jinja, chat_template.json.
"""

from __future__ import annotations

from typing import Any

from ..errors import CorruptFile
from .files import Files, mapping, sequence, string

__all__ = ["read_templates"]

_FOLDER = "additional_chat_templates/"


def read_templates(files: Files) -> tuple[str | None, dict[str, str]]:
    """(default template or None, other templates by name). Names keep ASCII letters and digits, the rest is `_`."""
    path = "tokenizer_config.json"
    value = files.json(path).get("chat_template")
    if value is None:
        path, value = _from_own_file(files)
    if value is None or isinstance(value, str):
        return value, {}
    named: dict[str, str] = {}
    for i, row in enumerate(sequence(value, path=path, place="chat_template")):
        place = f"chat_template[{i}]"
        entry = mapping(row, path=path, place=place)
        name = _key(string(entry.get("name"), path=path, place=f"{place}.name"))
        if not name or name in named:
            raise CorruptFile(
                "two chat templates of one name, or none", code="template-name", path=path, place=place, found=name
            )
        named[name] = string(entry.get("template"), path=path, place=f"{place}.template")
    return named.pop("default", None), named


def _from_own_file(files: Files) -> tuple[str, Any]:
    default = files.text("chat_template.jinja")
    if default is None:
        return "chat_template.json", files.json("chat_template.json").get("chat_template")
    extra = [name for name in files.names() if name.startswith(_FOLDER) and name.endswith(".jinja")]
    rows = [{"name": name[len(_FOLDER) : -len(".jinja")], "template": files.text(name)} for name in extra]
    return "chat_template.jinja", [{"name": "default", "template": default}, *rows]


def _key(name: str) -> str:
    return "".join(c if c.isascii() and c.isalnum() else "_" for c in name)
