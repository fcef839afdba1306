"""Which of many names a path ends with, however many there are: names and paths come from strangers."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable


class NameEnds:
    """A set of names, asked for those that end a path (as ``path.endswith(name)``, dots or not)."""

    def __init__(self, names: Iterable[str]) -> None:
        # reversed, ends are beginnings; without those that begin with another, only the name sorted before a path can
        # be its beginning
        kept: list[str] = []
        for turned in sorted(name[::-1] for name in names):
            if not kept or not turned.startswith(kept[-1]):
                kept.append(turned)
        self._turned = kept

    def __bool__(self) -> bool:
        return bool(self._turned)

    def end(self, path: str) -> bool:
        """Whether one of the names ends the path."""
        turned = path[::-1]
        at = bisect_right(self._turned, turned)
        return at > 0 and turned.startswith(self._turned[at - 1])

    def outermost(self, path: str) -> str | None:
        """The shortest beginning of a dotted path, up to a dot or whole, that one of the names ends; else None."""
        if not self._turned:
            return None
        at = path.find(".")
        while at >= 0:
            if self.end(path[:at]):
                return path[:at]
            at = path.find(".", at + 1)
        return path if self.end(path) else None
