"""Weights of the links of a path: how they are written, which link each is of, and which values are taken.

A weight multiplies what a link adds: ``W + sum(w s B A)`` over the links. It belongs to a request and to what is made
of it, never to the tree. ``PATH@REV:0.8`` is a reference with the weight of its last link; ``style=0.8,char=0.6`` are
weights of links by name, and a number alone is that of the last link.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from registry.errors import UsageError
from registry.reference import path_and_weight

LEAST: Final = 1e-9
MOST: Final = 1e9
"""Of the size of a weight: far beyond, factors that are multiplied by it become 0 or infinite in float32."""
RANGE: Final = f"0 or a size from {LEAST:g} to {MOST:g}"
MAX_WEIGHTS: Final = 6 << 10
"""Characters of weights as text."""

Given = Mapping[str, float] | float | str | None
"""What a caller gives: weights by link, one number for the last link, or the text of either."""

_DIGEST: Final = re.compile(r"sha256:[0-9a-f]{8,64}")


@dataclass(frozen=True)
class NamedLink:
    """A link of a path, as a weight may name it."""

    reference: str  # PATH@N
    digest: str

    def is_named(self, name: str) -> bool:
        """Whether a name is that of this link: its path or the end of it, maybe with its number, or its digest."""
        if _DIGEST.fullmatch(name):
            return self.digest.startswith(name)
        path, _, number = self.reference.partition("@")
        wanted, at, revision = name.partition("@")
        return f"/{path}".endswith(f"/{wanted}") and (not at or revision == number)


def is_sized(weight: float) -> bool:
    """Whether a weight is 0, or of a size that leaves what it multiplies in the range of float32; False for NaN."""
    return weight == 0 or LEAST <= abs(weight) <= MOST


def split_weight(ref: str) -> tuple[str, str | None]:
    """A reference without its weight, and the weight as text: ``PATH@3:0.8`` is ``PATH@3`` and ``0.8``.

    Raises:
        UsageError: the weight is no finite number, or of no usual size.
    """
    plain, text = path_and_weight(ref)
    if text is None:
        return ref, None
    return plain, repr(_number(text, ref))


def weights_text(given: Given) -> str | None:
    """Weights as the text that travels; None: there are none.

    Raises:
        UsageError: a weight is no finite number, or of no usual size, or a name is none.
    """
    if not isinstance(given, Mapping):
        return given if given is None or isinstance(given, str) else repr(_checked(given, "the last link"))
    names: list[object] = list(given)
    for link in names:
        if not isinstance(link, str) or not link.strip() or any(sign in link for sign in ",="):
            raise UsageError(f"{link!r} is no name of a link: its last name or its path is expected.")
    return ",".join(f"{link}={_checked(weight, link)!r}" for link, weight in given.items()) or None


def weights_by_digest(text: str | None, links: Sequence[NamedLink], reference: str) -> dict[str, float]:
    """Weights other than 1 by the digest of their link.

    Args:
        text: as in `weights_text`.
        links: of the path, root first.
        reference: of the path, for messages.

    Raises:
        UsageError: naming what is malformed, which link a weight may be of, or which has two.
    """
    found: dict[str, float] = {}
    for name, weight in _entries(text):
        link = _link(name, links, reference)
        if link.digest in found:
            raise UsageError(f"{link.reference} is given two weights: give it one.")
        found[link.digest] = weight + 0.0  # no -0.0
    return {digest: weight for digest, weight in found.items() if weight != 1.0}


def text_of(weights: Mapping[str, float]) -> str | None:
    """Weights by digest, as the text that travels; None: there are none."""
    return weights_text(weights)


def as_read(weight: float) -> str:
    """A weight as people read it, without rounding it."""
    return f"{weight:g}" if float(f"{weight:g}") == weight else repr(weight)


def _entries(text: str | None) -> Iterator[tuple[str | None, float]]:
    for entry in [] if text is None else text.split(","):
        name, equals, number = entry.rpartition("=")
        if equals and not name.strip():
            raise UsageError(f"The weight {entry!r} names no link: LINK=NUMBER is expected, such as style=0.8.")
        yield name.strip() or None, _number(number.strip(), name.strip() or "the last link")


def _link(name: str | None, links: Sequence[NamedLink], reference: str) -> NamedLink:
    """The link that a weight is of; None: the last one."""
    if not links:
        raise UsageError(f"{reference} is a base model: it has no link that a weight could be of.")
    named = [links[-1]] if name is None else [link for link in links if link.is_named(name)]
    if len(named) == 1:
        return named[0]
    listed = _listed(named or links)
    if named:
        raise UsageError(f"{name} is the name of several links of {reference}: write the path of one, {listed}.")
    raise UsageError(
        f"{reference} has no link {name}: its links are {listed}, and each may be called by its last name."
    )


def _listed(links: Iterable[NamedLink]) -> str:
    return ", ".join(link.reference for link in links)


def _number(text: str, given: str) -> float:
    try:
        weight = float(text) if text.isascii() and "_" not in text else math.nan
    except ValueError:
        weight = math.nan
    return _checked(weight, given, text)


def _checked(weight: float, of: str, text: str | None = None) -> float:
    try:
        number = math.nan if isinstance(weight, bool | str) else float(weight)
    except (TypeError, ValueError, OverflowError):
        number = math.nan
    if not is_sized(number):
        shown = repr(weight) if text is None else repr(text)
        raise UsageError(f"The weight {shown} of {of} is not taken: a finite number is expected, {RANGE}.")
    return number
