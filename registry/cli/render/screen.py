"""Lays out lines to the width of the terminal, with colours, and plain in a pipe.

On a terminal, lines fit its width; in a pipe, every record is one line, unless `COLUMNS` gives a width.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterable, Sequence
from itertools import zip_longest
from typing import TYPE_CHECKING, TextIO

from registry.figures import QUIET, REFERENCE, Cell, Span, clean, items, phrase, words

if TYPE_CHECKING:
    from registry.schemas.frames import Block

GAP = 2
HANG = 4
_MIN_FLOWING = 32  # columns needed for items beside fixed cells; with fewer they go below
_UNBOUNDED = 1 << 30
_WORD = re.compile(r"[^\s`]*`[^`]*`\S*|\S+")  # a command in backticks is one, so that it can be copied

Line = tuple[Span, ...]
Row = tuple[Sequence[Span], Sequence[Sequence[Span]]]  # fixed cells, and the items after them


def flow(items: Sequence[Sequence[Span]], width: int | None, *, gap: int = GAP) -> list[Line]:
    """Put items one after another, ``gap`` columns apart, on as many lines as ``width`` needs.

    An item is a list of spans, one column apart; it may be broken between spans. A span wider than a line gets its own.
    """
    room = _UNBOUNDED if width is None else width
    lines: list[list[Span]] = [[]]
    used = 0
    for item in items:
        for index, span in enumerate(item):
            space = (1 if index else gap) if used else 0
            if used and used + space + span.cells > room:
                lines.append([])
                used = space = 0
            if space:
                lines[-1].append(Span(" " * space))
            lines[-1].append(span)
            used += space + span.cells
    return [tuple(line) for line in lines]


def table(
    rows: Sequence[Row],
    width: int | None,
    *,
    header: Sequence[str] = (),
    right: Iterable[int] = (),
    indent: int = 0,
    least: Sequence[int] = (),
) -> list[Line]:
    """Rows of fixed cells in aligned columns, each followed by items that flow in the rest of the line.

    Items go below the cells of their row, indented, if the rest of the line is too narrow for them, and so do those of
    the rows after it that have empty cells: they go on with it. Cells that don't fit into a line flow too, without
    columns. ``right`` are the right-aligned columns; ``header`` has one word per fixed column, and may have one more
    for the items; ``least`` are widths that the first columns have at least.
    """
    if not rows:
        return []
    columns = len(rows[0][0])
    heads: list[Row] = (
        [([Span(word, QUIET) for word in header[:columns]], [words(header[-1], QUIET)])] if header else []
    )
    widths = [max(cells[column].cells for cells, _ in (*heads, *rows)) for column in range(columns)]
    widths = [max(pair) for pair in zip_longest(widths, least, fillvalue=0)]
    start = indent + sum(widths) + GAP * columns
    if width is not None and start - GAP > width:
        return [line for row in rows for line in _without_columns(row, width, indent)]
    lines: list[Line] = []
    beside = True
    for cells, after in (*heads, *rows):
        aligned = (Span(" " * indent), *_align(cells, widths, set(right)))
        goes_on = not any(cell.text for cell in cells)
        if goes_on and not beside:
            lines += _below(after, width, indent)
            continue
        beside = _fits(after, None if width is None else width - start)
        if beside:
            first, *rest = flow(after, None if width is None else width - start)
            lines.append(_stripped((*aligned, *first)))
            lines += [_stripped((Span(" " * start), *line)) for line in rest]
        else:
            lines.append(_stripped(aligned))
            lines += _below(after, width, indent)
    return lines


def _fits(items: Sequence[Sequence[Span]], room: int | None) -> bool:
    """Whether items fit beside the cells without a narrow column."""
    if room is None:
        return True
    spans = [span for item in items for span in item]
    widest = max((span.cells for span in spans), default=0)
    return widest <= room and (room >= _MIN_FLOWING or len(flow(items, room)) == 1)


def _below(items: Sequence[Sequence[Span]], width: int | None, indent: int) -> list[Line]:
    hang = indent + HANG
    room = None if width is None else max(width - hang, 1)
    return [_stripped((Span(" " * hang), *line)) for line in flow(items, room) if line]


def _without_columns(row: Row, width: int, indent: int) -> list[Line]:
    cells, items = row
    first, *rest = flow([[cell] for cell in cells], max(width - indent - HANG, 1))
    lines = [_stripped((Span(" " * indent), *first))]
    lines += [_stripped((Span(" " * (indent + HANG)), *line)) for line in rest]
    return lines + _below(items, width, indent)


def _align(cells: Sequence[Span], widths: Sequence[int], right: set[int]) -> list[Span]:
    spans: list[Span] = []
    for column, cell in enumerate(cells):
        padding = Span(" " * (widths[column] - cell.cells))
        spans += [padding, cell] if column in right else [cell, padding]
        spans.append(Span(" " * GAP))
    return spans


def _stripped(line: Sequence[Span]) -> Line:
    """A line without empty spans and trailing blanks."""
    spans = [span for span in line if span.text]
    while spans and not spans[-1].text.strip():
        spans.pop()
    return tuple(spans)


def lines_of(blocks: Iterable[Block | Line], width: int | None) -> list[Line]:
    """The lines of an answer; a part of it that has no rows is left out, but for the first, which says what it is."""
    lines: list[Line] = []
    for block in blocks:
        if isinstance(block, tuple):
            lines.append(block)
        elif block.rows or not lines:
            lines += [()] if lines and block.title is not None else []
            lines += [(phrase(block.title, REFERENCE),)] if block.title else []
            rows = [([_span(cell) for cell in row[:-1]], items(row[-1])) for row in block.rows]
            lines += table(rows, width, header=block.header, right=block.right, indent=block.indent, least=block.least)
    return lines


def _span(cell: Cell) -> Span:
    """A cell in a column, if it is one text."""
    assert cell is None or isinstance(cell, str | Span), "items are for the rest of the line"
    return cell if isinstance(cell, Span) else phrase(cell)


class Screen:
    """An output stream, its width, and whether it takes colours."""

    def __init__(self, stream: TextIO) -> None:
        self.stream = stream
        self.on_terminal = stream.isatty()
        self.width = self._width()

    def _width(self) -> int | None:
        given = os.environ.get("COLUMNS", "")
        if given.isdigit() and int(given):
            return int(given)
        if not self.on_terminal:
            return None
        try:
            return os.get_terminal_size(self.stream.fileno()).columns or 80
        except OSError:
            return 80

    def show(self, lines: Iterable[Line]) -> None:
        """Print lines in one write, so that a reader that stops early gets whole lines."""
        lines = list(lines)
        if not lines:
            return
        if self.on_terminal and self._coloured():
            self._show_styled(lines)
        else:
            self.stream.write("".join("".join(span.text for span in line) + "\n" for line in lines))
        self.stream.flush()

    def say(self, text: str, style: str = "") -> None:
        """Print one sentence, wrapped between words, but not within a command in backticks."""
        self.show(flow([[Span(word, style) for word in _WORD.findall(clean(text))]], self.width))

    @staticmethod
    def _coloured() -> bool:
        return not os.environ.get("NO_COLOR") and os.environ.get("TERM", "dumb") != "dumb"

    def _show_styled(self, lines: Sequence[Line]) -> None:
        from rich.console import Console
        from rich.text import Text

        console = Console(file=self.stream, highlight=False, markup=False, emoji=False, width=_UNBOUNDED)
        text = Text("\n").join(Text.assemble(*((span.text, span.style) for span in line)) for line in lines)
        console.print(text, soft_wrap=True)


def stdout() -> Screen:
    """The screen for results."""
    return Screen(sys.stdout)


def stderr() -> Screen:
    """The screen for messages."""
    return Screen(sys.stderr)
