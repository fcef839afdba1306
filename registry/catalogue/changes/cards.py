"""Edits the card of an adapter. Each change is recorded as an event, by digests: the text itself is not kept twice."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import delete, select
from sqlalchemy.orm import Session

from registry.catalogue.database import events
from registry.catalogue.database.tables import Adapter
from registry.catalogue.database.team_tables import CardRecord
from registry.catalogue.tree import cards, revisions
from registry.digest import sha256_digest
from registry.errors import ConflictError
from registry.reference import Path
from registry.rights import Principal


def set_card(
    session: Session,
    path: Path,
    text: str | None,
    front_matter: Mapping[str, Any],
    principal: Principal,
    *,
    expected: str | None = None,
) -> None:
    """Edit the card of an adapter; ``text`` None: the published README.md is its card again.

    Raises:
        NotFoundError: there is no such adapter; offers the nearest.
        UsageError: the path names a base model.
        ConflictError: ``card_changed``, the card's digest is not ``expected``.
    """
    adapter_id = revisions.adapter(session, path)
    # Two edits at once: the second waits here, and then finds the card of the first.
    session.execute(select(Adapter.id).where(Adapter.id == adapter_id).with_for_update())
    before = cards.state(session, adapter_id)
    old = cards.NO_CARD if before is None else before.digest
    if expected is not None and expected != old:
        who = f" by {before.edited_by}" if before is not None and before.edited_by else ""
        raise ConflictError(
            f"The card of {path} was changed{who} since it was read: read it again, and edit that.", code="card_changed"
        )
    if text is None:
        if before is not None and before.source == "edited":
            session.execute(delete(CardRecord).where(CardRecord.adapter_id == adapter_id))
            events.record(session, "card", str(path), principal, {"old": old, "new": None})
        return
    new = sha256_digest(text.encode("utf-8"))
    if new == old:
        return
    row = session.get(CardRecord, adapter_id, with_for_update=True) or CardRecord(adapter_id=adapter_id)
    row.text, row.digest, row.front_matter = text, new, dict(front_matter)
    row.edited_at, row.edited_by = datetime.now(UTC), principal.name
    session.add(row)
    events.record(session, "card", str(path), principal, {"old": None if before is None else old, "new": new})
    session.flush()
