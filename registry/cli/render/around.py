"""Renders what lies around a revision: what was trained on it, its tags over time, its materialisations."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from registry.cli.render.fidelity import figures
from registry.cli.render.screen import QUIET, REFERENCE, TAG, Line, Span, phrase, table, words
from registry.cli.render.text import counted, moment, size

if TYPE_CHECKING:
    from registry.schemas import Materialisation
    from registry.schemas.around import Children, TagHistory, TagMove


def children_lines(children: Children | None, width: int | None) -> list[Line]:
    """One line per adapter that was trained on it, and how many are not listed."""
    if children is None:
        return []
    rows = [
        (
            [phrase(one.path, REFERENCE)],
            [words(counted(one.revisions, "revision")), words(f"newest {_number(one.newest)}", QUIET)],
        )
        for one in children.adapters
    ]
    lines = table(rows, width, indent=2)
    more = children.total - len(children.adapters)
    return [*lines, (Span(f"  and {counted(more, 'more adapter')}", QUIET),)] if more else lines


def tag_lines(histories: Sequence[TagHistory], width: int | None) -> list[Line]:
    """One line per move of a tag, newest first, below the tag and what it points at now."""
    rows = []
    for history in histories:
        for index, move in enumerate(history.moves):
            tag = phrase(history.tag, TAG) if not index else Span("")
            rows.append(([tag, Span(moment(move.at), QUIET)], [words(_moved(move)), words(f"by {move.actor}", QUIET)]))
        if not history.moves:
            rows.append(([phrase(history.tag, TAG), Span("")], [words(f"points at {history.points_at}")]))
    return table(rows, width, indent=2)


def _moved(move: TagMove) -> str:
    if move.new is None:
        return f"removed from {_number(move.old)}"
    if move.old is None:
        return f"set to {_number(move.new)}"
    return f"moved from {_number(move.old)} to {_number(move.new)}"


def _number(reference: str | None) -> str:
    """``@3`` of ``PATH@3``: all are of one adapter."""
    return "" if reference is None else f"@{reference.rpartition('@')[2]}"


def materialisation_lines(found: Sequence[Materialisation], width: int | None) -> list[Line]:
    """One line per materialisation."""
    rows = [
        (
            [phrase(one.id), Span(size(one.size))],
            [words(f"as {one.kind}"), words(f"until {moment(one.expires_at)} UTC", QUIET), *_fidelity(one)],
        )
        for one in found
    ]
    return table(rows, width, indent=2, right=(1,))


def _fidelity(one: Materialisation) -> list[list[Span]]:
    return [] if one.fidelity is None else [words(figures(one.fidelity), QUIET)]
