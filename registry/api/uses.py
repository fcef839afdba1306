"""Which request begins a use of weights, and through which interface: a client may say so in a header."""

from __future__ import annotations

from fastapi import Request

from registry.schemas.protocol import NOT_A_USE, USE_HEADER
from registry.schemas.use import OVER_HTTP, Interface
from registry.services.deployment import Deployment


def note_use(request: Request, deployment: Deployment, reference: str, *, unless_said: Interface | None) -> None:
    """Note that weights of a reference were asked for, as the client says or, if it says nothing known, as given."""
    said = request.headers.get(USE_HEADER)
    if said == NOT_A_USE:
        return
    interface = next((known for known in OVER_HTTP if known == said), unless_said)
    if interface is not None:
        deployment.note_use(reference, interface)
