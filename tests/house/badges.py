"""Draws the badges of the README from pyproject.toml: ``python -m tests.house.badges``.

They are files of the repository, so that a page with them asks no other host for anything.
"""

from __future__ import annotations

import tomllib
from typing import Final

from tests.root import ROOT

IMAGES: Final = ROOT / "docs" / "images"
_CHARACTER: Final = 6.6  # pixels, of the letters below; `textLength` makes it so with any font
_BADGE: Final = """\
<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="20" role="img">
<title>{label}: {value}</title>
<rect width="{width}" height="20" rx="3" fill="#32363d"/>
<path d="M{left} 0h{inner}a3 3 0 0 1 3 3v14a3 3 0 0 1 -3 3h-{inner}z" fill="#1a6b9c"/>
<g fill="#ffffff" font-family="Verdana, DejaVu Sans, sans-serif" font-size="11">
<text x="8" y="14" textLength="{label_length}">{label}</text>
<text x="{value_at}" y="14" textLength="{value_length}">{value}</text>
</g>
</svg>
"""


def badges() -> dict[str, str]:
    """File name -> SVG."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    versions = [one.rpartition(" ")[2] for one in project["classifiers"] if "Python :: 3." in one]
    python = f"{versions[0]} – {versions[-1]}"
    return {"python.svg": _badge("Python", python), "license.svg": _badge("License", project["license"])}


def _badge(label: str, value: str) -> str:
    label_length, value_length = round(len(label) * _CHARACTER), round(len(value) * _CHARACTER)
    left, width = label_length + 16, label_length + value_length + 32
    return _BADGE.format(
        label=label,
        value=value,
        label_length=label_length,
        value_length=value_length,
        left=left,
        value_at=left + 8,
        width=width,
        inner=width - left - 3,
    )


if __name__ == "__main__":
    for name, drawn in badges().items():
        (IMAGES / name).write_text(drawn, encoding="utf-8")
