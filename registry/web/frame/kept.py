"""Forms that were sent and not taken, because the session had ended or for any other reason: what was written is kept.

The page that says so gives it back, to be sent again. Where somebody has to sign in first, it goes through the form of
signing in, as hidden fields. Nothing is done with it until it is sent again: so it is enough that a page of ours sent
it, be that older than the session.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from fastapi import Request

Fields = tuple[tuple[str, str], ...]
_TO: Final = "kept to"
_PREFIX: Final = "kept."
_CHOSEN: Final = frozenset({"base", "do", "expected", "form", "id", "pattern", "published", "remove", "undo", "wanted"})
"""Fields that people don't write, but buttons and pages."""
_LONG: Final = 100  # characters, from which on a field gets several lines


@dataclass(frozen=True)
class Kept:
    """A form that was not taken.

    Args:
        to: the path that it was sent to, without the prefix of the pages.
        fields: without the token of the form.
    """

    to: str
    fields: Fields

    @property
    def hidden(self) -> Fields:
        """It, as fields of another form."""
        return ((_TO, self.to), *((_PREFIX + name, value) for name, value in self.fields))

    @property
    def written(self) -> Fields:
        """The fields that people write."""
        return tuple((name, value) for name, value in self.fields if name not in _CHOSEN)

    @property
    def chosen(self) -> Fields:
        """The others."""
        return tuple((name, value) for name, value in self.fields if name in _CHOSEN)

    @staticmethod
    def is_long(value: str) -> bool:
        """Whether a field has several lines."""
        return len(value) > _LONG or "\n" in value


def split(fields: Iterable[tuple[str, str]]) -> tuple[Fields, Kept | None]:
    """The fields of the form of signing in, and the form that waits for that."""
    own, kept, to = [], [], ""
    for name, value in fields:
        if name == _TO:
            to = value
        elif name.startswith(_PREFIX):
            kept.append((name.removeprefix(_PREFIX), value))
        else:
            own.append((name, value))
    inside = to.startswith("/") and not to.startswith("//")
    return tuple(own), Kept(to, tuple(kept)) if kept and inside else None


def keep(request: Request, fields: Fields) -> None:
    """Keep what a page of ours sent, in case that it is not taken; what is for signing in holds a secret."""
    path = request.scope["path"]
    request.state.kept = split(fields)[1] if path == "/sign-in" else Kept(path, fields)


def kept_of(request: Request) -> Kept | None:
    """What was sent, if somebody wrote any of it."""
    found: Kept | None = getattr(request.state, "kept", None)
    return found if found is not None and any(value.strip() for _, value in found.written) else None
