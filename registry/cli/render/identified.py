"""Renders what a folder is made of."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Final

from registry.cli.render.screen import BEHIND, QUIET, REFERENCE, Line, Span, fields, phrase, words
from registry.figures import counted

if TYPE_CHECKING:
    from registry.schemas.parents import Identified, MergedFrom

_OF_ANOTHER_BASE: Final = 0.5
"""Of the norm of the weights; what training adds is some hundredths."""

Pair = tuple[str, list[list[Span]]]


def identified_lines(found: Identified, width: int | None) -> list[Line]:
    """The folder; then the paths that it is, or what is nearest."""
    merged = "is" if found.kind == "model" else "trained on"
    pairs: list[Pair] = [
        ("kind", [words("a model" if found.kind == "model" else "an adapter")]),
        ("names", [[phrase(found.trained_on)]] if found.trained_on else []),
        ("fits", [[phrase(name)] for name in found.bases]),
        ("published", [[phrase(name)] for name in found.published]),
        *(pair for one in found.merged for pair in _merged(merged, one)),
    ]
    if found.unknown_order:
        order = f"{', then '.join(found.unknown_order)}: no path here has that order"
        pairs.append(("merged", [words(order, BEHIND)]))
    if found.nearest is not None and found.distance is not None:
        rest = f"{100 * found.distance:.3g} % of its norm is explained by no revision"
        other = ": its base model is hardly one of those here" if found.distance > _OF_ANOTHER_BASE else ""
        pairs.append(("nearest", [[phrase(found.nearest)], words(rest + other, BEHIND)]))
        pairs.append(("fits least", [[phrase(found.tensor)]] if found.tensor and not other else []))
    if found.sum:
        terms = " + ".join(f"{one.weight:.3g} x {' or '.join((one.reference, *one.alike))}" for one in found.sum)
        pairs.append(("looks like", [words(terms), words("by samples: a hint, no proof", BEHIND)]))
    if found.retracted:
        names = ", ".join(found.retracted)
        pairs.append(("may be", [[phrase(names)], words("retracted, so that it was not compared", BEHIND)]))
    if found.reason:
        pairs.append(("not compared", [words(found.reason, BEHIND)]))
    pairs.append(("searched", [words(counted(found.searched, "revision"), QUIET)]))
    return [(Span(found.folder, REFERENCE),), *fields(pairs, width)]


def _merged(name: str, one: MergedFrom) -> Iterator[Pair]:
    yield name, [[phrase(one.reference)], words(one.proof, QUIET)]
    if len(one.links) > 1:
        shown = "in the order that its bits show" if one.order_shows else "other orders give the same"
        yield "links", [words(", then ".join(one.links)), words(f"({shown})", QUIET)]
