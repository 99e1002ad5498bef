"""The two small languages of the tables: terms (numbers over hyper-parameters) and conditions.

A term is a sum of products: `n_head*head_size + 2*n_head_kv`, `n_ctx - 2`, `n_embd/n_head` (must divide), `n_ff//3`,
`n_head % n_head_kv`. Names are hyper-parameters; one that is a list has an entry per layer; 'text' is a text; `layer`
is the layer's own number. `largest(NAME)`, `first(NAME)` and `step(NAME)` look at all layers: the largest entry, the
first layer whose entry is not 0, and how many layers behind it the next one comes (where there is none: more than there
are layers); `at(NAME, OTHER)` is the entry of the first layer for which OTHER has one that is not 0 (where there is
none, of the first layer); `primes(NAME, OTHER)` is the sum of the OTHER first primes from NAME on. A condition is a
chain of `and`: a name or term (true where it is not 0, false or absent), `not NAME`, or two terms with `==`, `!=` or
`<` between them.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from itertools import count as naturals
from itertools import islice
from math import isqrt
from operator import eq, lt, ne
from typing import Any

from modelfmt.errors import CorruptFile

__all__ = ["Scope", "evaluate", "holds"]

Scope = Mapping[str, Any]

_COMPARISONS: dict[str, Callable[[Any, Any], bool]] = {" == ": eq, " != ": ne, " < ": lt}


def evaluate(term: str, scope: Scope, layer: int = 0) -> Any:
    """The value of a term. Raises CorruptFile where a division leaves a rest.

    >>> evaluate("n_head*size + 2*2", {"n_head": 4, "size": [16, 8]}, layer=1)
    36
    """
    first, *rest = re.split(r"([+-])", term)
    value = _product(first, scope, layer)
    for sign, product in zip(rest[::2], rest[1::2], strict=True):
        other = _product(product, scope, layer)
        value = value + other if sign == "+" else value - other
    return value


def holds(condition: str, scope: Scope, layer: int = 0) -> bool:
    """Whether a condition is true; the empty one is.

    >>> holds("n_expert and not tied", {"n_expert": 8, "tied": False})
    True
    """
    return all(_holds(part.strip(), scope, layer) for part in condition.split(" and ")) if condition else True


def _holds(part: str, scope: Scope, layer: int) -> bool:
    if part.startswith("not "):
        return not evaluate(part[4:], scope, layer)
    for sign, compare in _COMPARISONS.items():
        if sign in part:
            left, right = (evaluate(side, scope, layer) for side in part.split(sign))
            return compare(left, right)
    return bool(evaluate(part, scope, layer))


def _product(text: str, scope: Scope, layer: int) -> Any:
    first, *rest = re.split(r"(//|[*/%])", text)
    value = _atom(first.strip(), scope, layer)
    for sign, word in zip(rest[::2], rest[1::2], strict=True):
        other = _atom(word.strip(), scope, layer)
        if sign == "*":
            value *= other
            continue
        if not other:
            raise _undivided(text, "a division by 0")
        value, remainder = divmod(value, other)
        if sign == "%":
            value = remainder
        elif remainder and sign == "/":
            raise _undivided(text, f"a rest of {remainder}")
    return value


def _undivided(text: str, found: str) -> CorruptFile:
    return CorruptFile(
        "two sizes of the model do not divide",
        code="config-value",
        path="config.json",
        place=text.strip(),
        found=found,
    )


def _atom(word: str, scope: Scope, layer: int) -> Any:
    if word == "layer":
        return layer
    if word.endswith(")"):
        name, _, inner = word[:-1].partition("(")
        lists = (scope[other] for other in inner.split(", "))
        return _OVERALL[name](*(value if isinstance(value, list) else [value] * scope["n_layer"] for value in lists))
    if word.startswith("'"):
        return word.strip("'")
    value = int(word) if word.isdigit() else scope[word]
    return value[layer] if isinstance(value, list) else value


def _first(entries: Sequence[Any]) -> int:
    return next((layer for layer, entry in enumerate(entries) if entry), len(entries))


def _step(entries: Sequence[Any]) -> int:
    behind = entries[_first(entries) + 1 :]
    return _first(behind) + 1 if any(behind) else len(entries) + 1


def _at(entries: Sequence[Any], others: Sequence[Any]) -> Any:
    return entries[_first(others) % len(entries)]


def _primes(starts: Sequence[int], counts: Sequence[int]) -> int:
    return _sum_of_primes(starts[0], counts[0])


@lru_cache(64)
def _sum_of_primes(start: int, count: int) -> int:
    return sum(islice(filter(_prime, naturals(max(start, 2))), count))


def _prime(number: int) -> bool:
    return number == 2 or (number % 2 == 1 and all(number % divisor for divisor in range(3, isqrt(number) + 1, 2)))


_OVERALL: dict[str, Callable[..., Any]] = {
    "largest": max,
    "first": _first,
    "step": _step,
    "at": _at,
    "primes": _primes,
}
