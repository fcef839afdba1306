"""What tests read in drawings."""

from __future__ import annotations

import re
from dataclasses import dataclass
from xml.etree import ElementTree
from xml.etree.ElementTree import Element

from registry.plots.drawing import Drawing

SVG = "{http://www.w3.org/2000/svg}"
MOST_BYTES = 300_000


@dataclass(frozen=True)
class Box:
    left: float
    top: float
    right: float
    bottom: float

    def touches(self, other: Box) -> bool:
        return (
            self.left < other.right and other.left < self.right and self.top < other.bottom and other.top < self.bottom
        )

    def inside(self, other: Box) -> bool:
        return (
            self.left >= other.left
            and self.right <= other.right
            and self.top >= other.top
            and self.bottom <= other.bottom
        )


def texts_of(root: Element, letter: float) -> dict[str, list[Box]]:
    """The boxes of all texts that begin at the left, with letters of this width, 11 pixels high."""
    found: dict[str, list[Box]] = {}
    for one, x, y in _placed(root, 0, 0):
        if one.tag == f"{SVG}text":
            width = letter * len(one.text or "")
            left = x - {"middle": width / 2, "end": width}.get(one.get("text-anchor", ""), 0)
            found.setdefault(one.text or "", []).append(Box(left, y - 9, left + width, y + 2))
    return found


def _placed(one: Element, x: float, y: float) -> list[tuple[Element, float, float]]:
    moved = re.fullmatch(r"translate\((\S+) (\S+)\)", one.get("transform", ""))
    if moved:
        x, y = x + float(moved[1]), y + float(moved[2])
    here = (one, x + float(one.get("x", 0)), y + float(one.get("y", 0)))
    return [here, *(inner for child in one for inner in _placed(child, x, y))]


def frame_of(root: Element) -> Box:
    """What is seen of a drawing."""
    left, top, width, height = map(float, (root.get("viewBox") or "").split())
    assert (float(root.get("width") or 0), float(root.get("height") or 0)) == (width, height)
    return Box(left, top, left + width, top + height)


def whole(drawing: Drawing) -> Element:
    return ElementTree.fromstring(drawing.svg())


def part(drawing: Drawing) -> Element:
    """The drawing as a page has it, which forbids styles in it and has ids of its own."""
    text = drawing.inline()
    assert "<style" not in text
    assert "style=" not in text
    assert not re.search(r"\s(id|on\w+)=", text)
    root = ElementTree.fromstring(text)
    assert root.get("aria-label")
    assert {
        name for one in root.iter() for name in (one.get("class") or "").split() if not name.startswith("plot")
    } == set()
    return root
