"""Draws docs/images/tree.svg, `registry tree` at a terminal: ``python -m tests.house.tree_picture REGISTRY``.

REGISTRY is a folder that `make demo` made. The picture has its own dark background, so that it reads on light and dark
pages, and names no font of the network: the viewer's monospaced one is stretched to the columns.
"""

from __future__ import annotations

import sys
from contextlib import closing
from pathlib import Path
from typing import Final

from rich.console import Console
from rich.text import Text

import registry
from registry.cli.render.results import tree_lines
from tests.root import ROOT

PICTURE: Final = ROOT / "docs" / "images" / "tree.svg"
COLUMNS: Final = 76
FORMAT: Final = """\
<svg class="rich-terminal" viewBox="0 0 {width} {height}" xmlns="http://www.w3.org/2000/svg" role="img">
<title>registry tree</title>
<style>
.{unique_id}-matrix {{ font-family: ui-monospace, Menlo, Consolas, monospace; font-size: {char_height}px;
  line-height: {line_height}px; }}
.{unique_id}-title {{ font-size: 18px; font-weight: bold; font-family: sans-serif; }}
{styles}
</style>
<defs>
<clipPath id="{unique_id}-clip-terminal">
<rect x="0" y="0" width="{terminal_width}" height="{terminal_height}"/>
</clipPath>
{lines}
</defs>
{chrome}
<g transform="translate({terminal_x}, {terminal_y})" clip-path="url(#{unique_id}-clip-terminal)">
{backgrounds}
<g class="{unique_id}-matrix">
{matrix}
</g>
</g>
</svg>
"""


def draw(folder: Path) -> str:
    """The picture of the tree of a registry."""
    with closing(registry.connect(folder)) as team:
        tree, bases = team.tree(), {base.name: base for base in team.bases()}
    with Path("/dev/null").open("w") as nowhere:
        console = Console(record=True, width=COLUMNS, file=nowhere, highlight=False, force_terminal=True)
        console.print(Text("$ registry tree"))
        for line in tree_lines(tree, bases, COLUMNS, guides=True):
            console.print(Text.assemble(*((span.text, span.style) for span in line)))
    return console.export_svg(title="", code_format=FORMAT, unique_id="tree")


if __name__ == "__main__":
    PICTURE.parent.mkdir(exist_ok=True)
    PICTURE.write_text(draw(Path(sys.argv[1])), encoding="utf-8")
