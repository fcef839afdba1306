"""The card of a push that brings no new revision: a README.md alone, or with weights that are published already."""

from __future__ import annotations

from sqlalchemy.orm import Session

from registry.catalogue.changes.cards import set_card
from registry.catalogue.tree import cards, revisions
from registry.reference import Path
from registry.services.artifacts.readme import front_matter
from registry.services.deployment import Deployment


def keep_card(deployment: Deployment, path: Path, text: str) -> bool:
    """Make a README.md the card of an adapter, unless somebody else has edited the card; whether it is now."""
    if not text.strip():
        return True
    me, metadata = deployment.principal, front_matter.split(text)[0]

    def work(session: Session) -> bool:
        state = cards.state(session, revisions.adapter(session, path))
        if state is not None and state.source == "edited" and state.edited_by != me.name:
            return False
        set_card(session, path, text, metadata, me)
        return True

    return deployment.change(work)
