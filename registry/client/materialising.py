"""What a client does with materialisations: a part of `registry.client.remote`."""

from __future__ import annotations

from pydantic import RootModel

from registry.client.browsing import Page, listed
from registry.client.operations import result_of
from registry.client.transport import Transport
from registry.progress import SILENT, Progress
from registry.schemas import ArtifactKind, Materialisation, Materialised
from registry.services.arguments import asked
from registry.wire import MaterialiseRequest

_ROUTE = "/materialisations"


class MaterialisationPage(Page[Materialisation]):
    """Of materialisations."""


class Dropped(RootModel[tuple[Materialisation, ...]]):
    """All that are kept no longer."""


class RemoteMaterialisations:
    """See `registry.services.protocol`."""

    _transport: Transport

    def materialise(
        self, ref: str, *, kind: ArtifactKind = "lora", expires_in: int | None = None, progress: Progress = SILENT
    ) -> Materialised:
        request = asked(MaterialiseRequest, ref=ref, kind=kind, expires_in=expires_in)
        answer = self._transport.call("POST", _ROUTE, body=request, slow=True)
        return result_of(self._transport, answer, Materialised, progress)

    def materialisations(self, ref: str | None = None) -> tuple[Materialisation, ...]:
        return listed(self._transport, _ROUTE, MaterialisationPage, ref=ref)

    def drop_materialisation(self, which: str, *, kind: ArtifactKind | None = None) -> tuple[Materialisation, ...]:
        return self._transport.send("DELETE", _ROUTE, Dropped, again=False, which=which, kind=kind).root
