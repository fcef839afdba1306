"""What lies around a revision: what was trained on it, and what its tags pointed at over time."""

from __future__ import annotations

from datetime import datetime

from registry.schemas.form import Schema


class ChildAdapter(Schema):
    """An adapter with revisions that were trained on a revision, or on a base model."""

    path: str
    revisions: int  # of it that are pinned there
    newest: str  # of these: PATH@N


class Children(Schema):
    """The adapters with revisions that were trained on a revision; of more than 20, the first by path."""

    total: int  # of these adapters, as far as the token sees them
    adapters: tuple[ChildAdapter, ...]


class TagMove(Schema):
    """A tag pointed at ``old`` before and at ``new`` afterwards, as references ``PATH@N``; None: it did not exist."""

    at: datetime
    actor: str
    old: str | None
    new: str | None


class TagHistory(Schema):
    """A tag that points at a revision, or did: its moves, newest first, of many the newest 20."""

    tag: str
    points_at: str | None  # now; None: it was removed
    moves: tuple[TagMove, ...]
