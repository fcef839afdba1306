"""Adds and publishes from this machine: the service checks everything else first, then missing files are uploaded."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from registry.client.calls import do
from registry.client.http.transport import Transport
from registry.client.uploads import Uploads
from registry.errors import IntegrityError, RegistryError
from registry.files.hashed import HashedFile
from registry.files.source import FileSource
from registry.folders.errors import ErrorMapping, unreadable
from registry.operations.table import COMMIT_BASE, COMMIT_PUBLISH, PLAN_BASE, PLAN_PUBLISH
from registry.operations.transfer import sent_and_committed
from registry.progress import SILENT, Progress
from registry.schemas import BaseAdded, Published
from registry.schemas.transfer import (
    BaseCommit,
    PublishCommit,
    PublishPlan,
    PublishRequest,
)
from registry.transfer.requests import BaseFolder, PublishFolder

_OPEN_AT_ONCE: Final = 64


def plan_publish(transport: Transport, request: PublishRequest) -> PublishPlan:
    """Let the service check everything but the weights."""
    return do(transport, PLAN_PUBLISH, request, SILENT)


def publish_folder(transport: Transport, folder: PublishFolder, progress: Progress) -> Published:
    """Publish a local adapter."""
    watched = _Watched(folder.hashed)
    plan = plan_publish(transport, folder.request)
    return sent_and_committed(
        lambda: watched.send(transport, plan.missing, progress),
        lambda sent: do(transport, COMMIT_PUBLISH, PublishCommit(request=folder.request, uploads=dict(sent)), progress),
    )


def add_base_folder(transport: Transport, folder: BaseFolder, progress: Progress) -> BaseAdded:
    """Add a local base model."""
    watched = _Watched(folder.hashed)
    plan = do(transport, PLAN_BASE, folder.request, progress)
    return sent_and_committed(
        lambda: watched.send(transport, plan.missing, progress),
        lambda sent: do(transport, COMMIT_BASE, BaseCommit(request=folder.request, uploads=dict(sent)), progress),
    )


@dataclass(frozen=True)
class _Watched:
    """Hashed files, by digest. A file that changed after hashing raises an error, until it has been sent."""

    hashed: Mapping[str, HashedFile]

    def send(self, transport: Transport, missing: Sequence[str], progress: Progress) -> dict[str, str]:
        """Upload what the service lacks; returns upload ids by digest."""
        digests = list(dict.fromkeys(missing))
        if unknown := [digest for digest in digests if digest not in self.hashed]:
            raise IntegrityError(
                f"{transport.url} requests {unknown[0]}, which is not one of the files that were announced."
            )
        if not digests:
            return {}
        progress.begin("Uploading", sum(self.hashed[digest].stamp.size for digest in digests))
        uploads = Uploads(transport, progress)
        sent: dict[str, str] = {}
        for first in range(0, len(digests), _OPEN_AT_ONCE):
            with ExitStack() as opened:
                batch = digests[first : first + _OPEN_AT_ONCE]
                sent |= uploads.send([(digest, opened.enter_context(self._open(digest))) for digest in batch])
            for digest in batch:
                self._check(digest)
        return sent

    def _open(self, digest: str) -> FileSource:
        self._check(digest)
        file = self.hashed[digest].path
        with ErrorMapping(_unreadable, file):
            return FileSource(file)

    def _check(self, digest: str) -> None:
        hashed = self.hashed[digest]
        with ErrorMapping(_unreadable, hashed.path):
            same = hashed.passes(hashed.path)
        if not same:
            raise _changed(hashed.path)


def _changed(file: Path) -> IntegrityError:
    return IntegrityError(
        f"{file} was changed while it was read; wait until nothing writes to it and run this again.",
        code="upload_mismatch",
    )


def _unreadable(file: Path, problem: OSError) -> RegistryError:
    if isinstance(problem, FileNotFoundError):
        return _changed(file)
    return unreadable(file, problem)
