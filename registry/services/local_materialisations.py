"""What a registry in process does with materialisations: a part of `registry.services.local`."""

from __future__ import annotations

from pydantic import ValidationError

from registry.errors import UsageError
from registry.progress import SILENT, Progress
from registry.schemas import ArtifactKind, Materialisation, Materialised
from registry.services.deployment import Deployment
from registry.wire import MaterialiseRequest


class Materialisations:
    """See `registry.services.protocol`."""

    deployment: Deployment

    def materialise(
        self, ref: str, *, kind: ArtifactKind = "lora", expires_in: int | None = None, progress: Progress = SILENT
    ) -> Materialised:
        from registry.services.materialising import materialise

        return materialise(self.deployment, _request(ref=ref, kind=kind, expires_in=expires_in), progress)

    def materialisations(self, ref: str | None = None) -> tuple[Materialisation, ...]:
        from registry.services.materialising import listed

        return listed(self.deployment, ref)

    def drop_materialisation(self, which: str, *, kind: ArtifactKind | None = None) -> tuple[Materialisation, ...]:
        from registry.services.materialising import drop

        return drop(self.deployment, which, kind)


def _request(**given: object) -> MaterialiseRequest:
    try:
        return MaterialiseRequest.model_validate(given, strict=True)
    except ValidationError as problem:
        first = problem.errors()[0]
        name = str(first["loc"][0])
        raise UsageError(f"{name} is {given[name]!r}: {first['msg'].lower()}.") from None
