"""The one table: all rows with their machine as JSON, and the same as Markdown."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from pydantic import TypeAdapter

from benchmarks.machine import Machine
from benchmarks.rows import Figure, Goal, Row

_HEAD: Final = ("what", "figure", "CPU s", "beside", "its figure", "its CPU s", "ratio", "CPU ratio", "goal", "met")


@dataclass(frozen=True)
class Part:
    """What one run of a part has found: when, at which commit, and how busy the machine was before and after."""

    at: str
    commit: str
    load: tuple[float, float]
    machine: Machine
    rows: tuple[Row, ...]


@dataclass(frozen=True)
class Document:
    """All parts, by name."""

    parts: Mapping[str, Part]


_ADAPTER: Final = TypeAdapter(Document)


def read(file: Path) -> Document:
    """The document in a file; one without parts where there is no file."""
    return _ADAPTER.validate_json(file.read_bytes()) if file.exists() else Document({})


def write(folder: Path, name: str, document: Document) -> None:
    """Write ``NAME.json`` and ``NAME.md``."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{name}.json").write_bytes(_ADAPTER.dump_json(document, indent=2) + b"\n")
    (folder / f"{name}.md").write_text(markdown(document))


def markdown(document: Document) -> str:
    """One table with all rows, and below it which machine each part is from."""
    lines = [_line(_HEAD), _line(["---"] + ["--:"] * 2 + ["---"] + ["--:"] * 4 + ["---"] * 2)]
    lines += [_line(_cells(name, row)) for name, part in document.parts.items() for row in part.rows]
    return "\n".join([*lines, "", *_origins(document), ""])


def _cells(part: str, row: Row) -> list[str]:
    peer = row.peer
    return [
        f"{part}: {row.name}",
        _with_spread(row.figure, row.unit),
        number(row.figure.cpu),
        "" if peer is None else peer.name,
        "" if peer is None else _with_spread(peer.figure, row.unit),
        "" if peer is None else number(peer.figure.cpu),
        number(row.ratio),
        number(row.cpu_ratio),
        "" if row.goal is None else _limit(row.goal, row.unit),
        "" if row.goal is None else {True: "yes", False: "no", None: "not measured"}[row.met],
    ]


def _limit(goal: Goal, unit: str) -> str:
    of = {"figure": unit, "ratio": "x", "cpu": "x CPU"}[goal.of]
    return f"{goal.direction} {goal.limit:g} {of}".rstrip()


def _with_spread(figure: Figure, unit: str) -> str:
    """The median and, of several runs, the smallest and largest."""
    text = f"{number(figure.value)} {unit}".rstrip()
    spread = figure.runs > 1 and figure.low is not None and figure.high is not None
    return f"{text} ({number(figure.low)} to {number(figure.high)})" if spread else text


def number(value: float | None) -> str:
    """A number with three digits that count."""
    if value is None:
        return ""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def _origins(document: Document) -> Iterator[str]:
    machines: dict[str, list[str]] = {}
    for name, part in document.parts.items():
        before, after = part.load
        told = f"{name} ({part.at}, commit {part.commit}, load {before:.1f} to {after:.1f})"
        machines.setdefault(str(part.machine), []).append(told)
    for machine, parts in machines.items():
        yield f"- {machine}: {', '.join(parts)}."


def _line(cells: list[str] | tuple[str, ...]) -> str:
    return f"| {' | '.join(cells)} |"
