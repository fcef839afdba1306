"""Renders the plan of an import."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Final

from registry.cli.render.screen import BEHIND, GONE, QUIET, REFERENCE, Line, Span, phrase, table, words
from registry.schemas.parents import level_of

if TYPE_CHECKING:
    from registry.schemas.publishing import ImportDocument, ImportEntry

_STYLES: Final = {"undecided": BEHIND, "refused": GONE, "skip": QUIET}


def plan_lines(document: ImportDocument, width: int | None) -> list[Line]:
    """One row per folder: what it is, where it goes, and why."""
    entries = {one.folder: one for one in document.entries}
    rows: list[tuple[list[Span], list[list[Span]]]] = [
        (
            [
                phrase(one.folder),
                phrase(one.what),
                Span(one.action, _STYLES.get(one.action, "")),
                phrase(_path(one, entries) or "-", REFERENCE),
            ],
            _about(one),
        )
        for one in document.entries
    ]
    return table(rows, width, header=("FOLDER", "IS", "ACTION", "PATH", "WHY"))


def _path(entry: ImportEntry, entries: Mapping[str, ImportEntry]) -> str | None:
    """Where an entry goes: its name below those of its parents."""
    if entry.action == "add":
        return entry.name
    names: list[str] = []
    at = entry
    while at.action in ("publish", "full") and at.name and at.parent and len(names) <= len(entries):
        names.append(at.name)
        above = entries.get(at.parent)
        if above is None:
            return "/".join([at.parent.partition("@")[0], *reversed(names)])
        at = above
    return "/".join([at.name or "", *reversed(names)]) if names else None


def _level(entry: ImportEntry) -> str:
    """How far its parent can be relied on; empty: the plan is of a version that did not say."""
    return "" if entry.parent_known_by is None else f", {level_of(entry.parent_known_by)}"


def _about(entry: ImportEntry) -> list[list[Span]]:
    near = [words(f"{one.parent}: {one.why}", QUIET) for one in entry.candidates]
    labels = [
        *(f"{name}={value:g}" for name, value in entry.metrics.items()),
        *map("=".join, entry.annotations.items()),
    ]
    return [
        *([words(f"parent {entry.parent}{_level(entry)}: {entry.proof}")] if entry.proof else []),
        *([[*([Span(entry.code, GONE)] if entry.code else []), *words(entry.reason)]] if entry.reason else []),
        *near,
        *([words(" ".join(labels), QUIET)] if entry.action == "publish" and labels else []),
    ]
