"""The transfer protocol (`registry.operations.transfer.Transfer`) of a registry in process: for copies and services."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from registry.progress import SILENT, Progress
from registry.schemas import Options
from registry.schemas.jobs import Operation
from registry.schemas.transfer import (
    ArtifactPlan,
    BlobEntry,
    Upload,
    UploadRequest,
)
from registry.services.deployment import Deployment

if TYPE_CHECKING:
    from registry.files.source import ByteSource
    from registry.operations.transfer import ClosableSource


class Transfers:
    """Blobs, uploads, artifact plans and jobs, on this process's database and store."""

    def __init__(self, deployment: Deployment) -> None:
        self.deployment = deployment

    def open_blob(self, ref: str, blob: BlobEntry) -> ClosableSource:
        from registry.services.artifacts.bundles import open_blob

        return open_blob(self.deployment, ref, blob.digest)

    def upload(self, digest: str, source: ByteSource, *, progress: Progress = SILENT) -> str:
        from registry.services.intake.uploads import upload

        return upload(self.deployment, digest, source, progress)

    def begin_upload(self, request: UploadRequest) -> Upload:
        """Begin an upload, or resume an open one of the same bytes."""
        from registry.services.intake.uploads import begin_upload

        return begin_upload(self.deployment, request)

    def get_upload(self, upload_id: str) -> Upload:
        """The state of an upload, with fresh presigned URLs."""
        from registry.services.intake.uploads import get_upload

        return get_upload(self.deployment, upload_id)

    def put_part(self, upload_id: str, number: int, chunks: Iterable[bytes]) -> None:
        """Store one part of an upload."""
        from registry.services.intake.uploads import put_part

        put_part(self.deployment, upload_id, number, chunks)

    def drop_upload(self, upload_id: str) -> None:
        """Delete an upload and its parts."""
        from registry.services.intake.uploads import drop_upload

        drop_upload(self.deployment, upload_id)

    def artifact_plan(self, ref: str, options: Options) -> ArtifactPlan:
        """An artifact as this machine renders it, with all that a client needs to fetch it."""
        from registry.services.artifacts.opened import artifact_plan

        return artifact_plan(self.deployment, ref, options)

    def operation(self, operation_id: str) -> Operation:
        """The state of a job that this principal submitted."""
        from registry.services.jobs import operation

        return operation(self.deployment, operation_id)
