"""What a token has loaded from the Hub views: PEFT writes the name of the model that it trained on, and no revision."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Final

from registry.catalogue.tree import use
from registry.reference import Path
from registry.services.deployment import Deployment

LATELY: Final = timedelta(days=31)
"""How long a load counts."""


def loaded_by(deployment: Deployment, path: Path | None) -> tuple[int, ...]:
    """The numbers of the revisions of an adapter that the principal has loaded lately; none of a base model."""
    if path is None or path.is_base or deployment.uses is None:
        return ()
    deployment.uses.write()  # what this process has noted so far: a short training may be over before it is due
    who = deployment.principal.token or deployment.principal.name
    with deployment.read() as session:
        return use.loaded(session, path, who, datetime.now(UTC) - LATELY)
