"""Writes the table that was measured last into docs/performance.md.

python -m benchmarks.quote
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

from benchmarks import report, running
from benchmarks.machine import ROOT

PAGE: Final = ROOT / "docs" / "performance.md"
_BEGIN: Final = "<!-- bench: written by `python -m benchmarks.quote` -->"
_END: Final = "<!-- end of bench -->"


def quote(page: Path, document: report.Document) -> None:
    """Put the table between the marks of a page, in place of what is there."""
    before, begin, rest = page.read_text().partition(_BEGIN)
    _, end, after = rest.partition(_END)
    if not (begin and end):
        raise SystemExit(f"{page} lacks {_BEGIN} or {_END}.")
    page.write_text(f"{before}{begin}\n\n{report.markdown(document)}\n{end}{after}")


if __name__ == "__main__":
    measured = running.RESULTS / "bench.json"
    if not measured.exists():
        raise SystemExit(f"{measured} is not there: run `make bench` first.")
    quote(PAGE, report.read(measured))
