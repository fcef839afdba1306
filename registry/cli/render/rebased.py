"""Renders what rebasing a revision does to the weights of its path."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from registry.cli.render.screen import BEHIND, QUIET, REFERENCE, Line, Span, fields, phrase, words
from registry.cli.render.text import counted, percent

if TYPE_CHECKING:
    from registry.schemas.publishing import Rebased, RebasedValue
    from registry.schemas.statistics import ModuleStatistics

_MOST: Final = 5  # modules that are listed


def rebased_lines(found: Rebased, width: int | None, *, only_new: bool = False) -> list[Line]:
    """The new revision, or in a dry run the old one; which parents; how far the weights move, and where most.

    ``only_new``: the rest was shown before.
    """
    name = found.reference if found.revision is None else found.revision.reference
    head: Line = (Span(name, REFERENCE),)
    if only_new:
        return [head]
    moved = found.moved
    most = sorted((one for one in moved.modules if one.energy), key=lambda one: -one.energy)
    more = [words(f"and {counted(len(most) - _MOST, 'module')} more", QUIET)] if len(most) > _MOST else []
    pairs = [
        ("rebased", [[phrase(found.reference, REFERENCE)]] if found.revision is not None else []),
        ("is on" if found.revision is None else "was on", [[phrase(found.parent, REFERENCE)]]),
        ("onto" if found.revision is None else "is on", [[phrase(found.onto, REFERENCE)]]),
        ("moves", [words(_moves(found))]),
        ("most", [*([phrase(one.module), *words(_norm(one), QUIET)] for one in most[:_MOST]), *more]),
        ("not in it", [words(f"{one.name} is {one.how}", BEHIND) for one in moved.others]),
        ("keeps", [_keeps(one) for one in found.values]),
    ]
    return [head, *fields(pairs, width)]


def _moves(found: Rebased) -> str:
    """How far, against the base model and against what the revision itself adds."""
    moved = found.moved
    base = "" if moved.relative_frobenius is None else f", {percent(moved.relative_frobenius)} of the base model's"
    own = "" if not found.own_frobenius else f", {moved.frobenius / found.own_frobenius:.3g} times its own change"
    return f"norm {moved.frobenius:.4g}{base}{own}"


def _norm(module: ModuleStatistics) -> str:
    share = "" if module.relative_frobenius is None else f", {percent(module.relative_frobenius)}"
    return f"{module.frobenius:.4g}{share}"


def _keeps(value: RebasedValue) -> list[Span]:
    if value.moved:
        return words(f"{value.name}, {value.how}; the parents differ there", BEHIND)
    return words(f"{value.name}, {value.how}")
