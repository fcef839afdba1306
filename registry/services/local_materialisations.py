"""What a registry in process does with materialisations: a part of `registry.services.local`."""

from __future__ import annotations

from registry.progress import SILENT, Progress
from registry.schemas import ArtifactKind, Materialisation, Materialised
from registry.services.arguments import asked
from registry.services.deployment import Deployment
from registry.wire import MaterialiseRequest


class Materialisations:
    """See `registry.services.protocol`."""

    deployment: Deployment

    def materialise(
        self, ref: str, *, kind: ArtifactKind = "lora", expires_in: int | None = None, progress: Progress = SILENT
    ) -> Materialised:
        from registry.services.materialising import materialise

        request = asked(MaterialiseRequest, ref=ref, kind=kind, expires_in=expires_in)
        return materialise(self.deployment, request, progress)

    def materialisations(self, ref: str | None = None) -> tuple[Materialisation, ...]:
        from registry.services.materialising import listed

        return listed(self.deployment, ref)

    def drop_materialisation(self, which: str, *, kind: ArtifactKind | None = None) -> tuple[Materialisation, ...]:
        from registry.services.materialising import drop

        return drop(self.deployment, which, kind)
