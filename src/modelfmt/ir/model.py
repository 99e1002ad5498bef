"""A model as read from its files: lazy tensors, configuration, tokenizer, assets."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from modelfmt.errors import CorruptFile
from modelfmt.ir.record import Record, walk
from modelfmt.ir.tensor import Tensor

if TYPE_CHECKING:
    from modelfmt.ir.graph import Program
    from modelfmt.ir.tokenizer import Tokenizer

__all__ = ["Model"]

_ROOT_NAME = "tensor"


@dataclass(eq=False)  # a Struct cannot be a Mapping
class Model(Mapping[str, Tensor]):
    """A mapping from tensor names to lazy tensors, with what else the files hold.

    format: "safetensors", "huggingface", "gguf" ... path: what was opened. architecture: the format's own name for it,
    or None. config: parsed config.json (Hugging Face). metadata: the format's own key-values. tokenizer: None where
    there is none. assets: small files kept verbatim, by relative name. extras: what only one format understands, by
    format. content: what an object file holds beside its tensors (records, texts, tables), as the file nests it; None
    elsewhere. files: every file that the tensors point into. program: the compute graph, where the format has one. Use
    as a context manager, or call `close()`.
    """

    format: str
    path: str
    tensors: dict[str, Tensor] = field(default_factory=dict)
    architecture: str | None = None
    config: dict[str, Any] = field(default_factory=dict)
    metadata: Mapping[str, Any] = field(default_factory=dict)
    tokenizer: Tokenizer | None = None
    assets: Mapping[str, bytes] = field(default_factory=dict)
    extras: dict[str, Any] = field(default_factory=dict)
    content: Any = None
    files: Any = None
    program: Program | None = None

    @property
    def n_params(self) -> int:
        """Number of logical elements over all tensors."""
        return sum(tensor.n_elements for tensor in self.tensors.values())

    @property
    def nbytes(self) -> int:
        """Stored bytes over all tensors."""
        return sum(tensor.nbytes for tensor in self.tensors.values())

    @property
    def records(self) -> dict[str, Record]:
        """Every object with a class in the content, by its name; "" is the content itself."""
        return {name: value for name, value in walk(self.content, path=self.path) if isinstance(value, Record)}

    @property
    def estimators(self) -> dict[str, Record]:
        """The records that are estimators or transformers in scikit-learn's sense, outer ones first."""
        return {name: record for name, record in self.records.items() if record.is_estimator}

    def adopt(self, content: Any) -> None:
        """Take over content: its tensors get their names, and become the model's. Raises CorruptFile (a name twice)."""
        self.content = content
        for name, value in walk(content, path=self.path):
            if not isinstance(value, Tensor):
                continue
            name = name or _ROOT_NAME
            if name in self.tensors:
                raise CorruptFile("two tensors have one name", code="duplicate-key", path=self.path, place=name)
            value.name = value.name or name
            self.tensors[name] = Tensor(name, value.expr, value.reader)

    def __getitem__(self, name: str) -> Tensor:
        return self.tensors[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.tensors)

    def __len__(self) -> int:
        return len(self.tensors)

    def close(self) -> None:
        """Close every file that was opened for reading."""
        if self.files is not None:
            self.files.close()

    def __enter__(self) -> Model:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        what = f"{self.format}, {self.architecture or 'no architecture'}"
        return f"Model({what}, {len(self)} tensors, {self.n_params:,} parameters)"
