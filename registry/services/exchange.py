"""What a registry in process is to another registry, and to a service (`registry.services.transfer.Transfer`)."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from registry.progress import SILENT, Progress
from registry.schemas import BaseAdded, Options, Published
from registry.services.deployment import Deployment
from registry.wire import (
    ArtifactPlan,
    BaseCommit,
    BasePlan,
    BaseRequest,
    BlobEntry,
    Bundle,
    Operation,
    PublishCommit,
    PublishPlan,
    PublishRequest,
    Upload,
    UploadRequest,
)

if TYPE_CHECKING:
    from registry.services.transfer import ClosableSource
    from registry.tensors.files.source import ByteSource


class Exchange:
    """Bytes by digest, and what is published with them, on a database and a store of this process."""

    def __init__(self, deployment: Deployment) -> None:
        self.deployment = deployment

    def bundle(self, ref: str) -> Bundle:
        from registry.services.bundles import bundle

        return bundle(self.deployment, ref)

    def subtree(self, path: str) -> tuple[str, ...]:
        from registry.services.bundles import subtree

        return subtree(self.deployment, path)

    def open_blob(self, ref: str, blob: BlobEntry) -> ClosableSource:
        from registry.services.bundles import open_blob

        return open_blob(self.deployment, ref, blob.digest)

    def plan_publish(self, request: PublishRequest) -> PublishPlan:
        from registry.services.publish import plan_publish

        return plan_publish(self.deployment, request)

    def plan_base(self, request: BaseRequest) -> BasePlan:
        from registry.services.base_requests import plan_base

        return plan_base(self.deployment, request)

    def upload(self, digest: str, source: ByteSource, *, progress: Progress = SILENT) -> str:
        from registry.services.uploads import upload

        return upload(self.deployment, digest, source, progress)

    def commit_publish(self, commit: PublishCommit, *, progress: Progress = SILENT) -> Published:
        from registry.services.publish import commit_publish

        return commit_publish(self.deployment, commit, progress)

    def commit_base(self, commit: BaseCommit, *, progress: Progress = SILENT) -> BaseAdded:
        from registry.services.base_requests import commit_base

        return commit_base(self.deployment, commit, progress)

    def begin_upload(self, request: UploadRequest) -> Upload:
        """Begin an upload, or go on with an open one of the same bytes."""
        from registry.services.uploads import begin_upload

        return begin_upload(self.deployment, request)

    def get_upload(self, upload_id: str) -> Upload:
        """An upload as it stands, with addresses that are fresh."""
        from registry.services.uploads import get_upload

        return get_upload(self.deployment, upload_id)

    def put_part(self, upload_id: str, number: int, chunks: Iterable[bytes]) -> None:
        """Take one part of an upload."""
        from registry.services.uploads import put_part

        put_part(self.deployment, upload_id, number, chunks)

    def drop_upload(self, upload_id: str) -> None:
        """Forget an upload and what was sent of it."""
        from registry.services.uploads import drop_upload

        drop_upload(self.deployment, upload_id)

    def artifact_plan(self, ref: str, options: Options) -> ArtifactPlan:
        """An artifact as this machine makes it, with all that a client needs to fetch it."""
        from registry.services.handing_out import artifact_plan

        return artifact_plan(self.deployment, ref, options)

    def operation(self, operation_id: str) -> Operation:
        """An operation that this principal asked for, as it stands."""
        from registry.services.operations import operation

        return operation(self.deployment, operation_id)
