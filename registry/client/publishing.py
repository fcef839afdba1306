"""Adding and publishing from this machine: what is missing travels, after the service has checked all else."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from registry.client.operations import result_of
from registry.client.transport import Transport
from registry.client.uploads import Uploads
from registry.errors import IntegrityError, RegistryError
from registry.folders.refusals import unreadable
from registry.progress import Progress
from registry.schemas import BaseAdded, Published
from registry.services.requests import BaseFolder, PublishFolder
from registry.tensors.files.source import FileSource
from registry.wire import (
    BaseCommit,
    BasePlan,
    BaseRequest,
    FileClaim,
    PublishCommit,
    PublishPlan,
    PublishRequest,
)

_OPEN_AT_ONCE: Final = 64


def plan_publish(transport: Transport, request: PublishRequest) -> PublishPlan:
    """Let the service check everything but the weights."""
    return transport.send("POST", "/publishes/plan", PublishPlan, request, slow=True)


def plan_base(transport: Transport, request: BaseRequest) -> BasePlan:
    """The same for a base model."""
    return transport.send("POST", "/bases/plan", BasePlan, request, slow=True)


def commit_publish(transport: Transport, commit: PublishCommit, progress: Progress) -> Published:
    """Publish an adapter whose bytes are there or uploaded."""
    answer = transport.call("POST", "/publishes", body=commit, slow=True)
    published = result_of(transport, answer, Published, progress)
    return published.model_copy(update={"registry": transport.url})


def commit_base(transport: Transport, commit: BaseCommit, progress: Progress) -> BaseAdded:
    """Add a base model whose bytes are there or uploaded."""
    answer = transport.call("POST", "/bases", body=commit, slow=True)
    added = result_of(transport, answer, BaseAdded, progress)
    return added.model_copy(update={"registry": transport.url})


def publish_folder(transport: Transport, folder: PublishFolder, progress: Progress) -> Published:
    """Publish an adapter of this machine."""
    watched = _Watched.now(folder.request.files, folder.sources)
    plan = plan_publish(transport, folder.request)
    uploads = watched.send(transport, plan.missing, progress)
    return commit_publish(transport, PublishCommit(request=folder.request, uploads=uploads), progress)


def add_base_folder(transport: Transport, folder: BaseFolder, progress: Progress) -> BaseAdded:
    """Add a base model of this machine."""
    watched = _Watched.now(folder.request.files, folder.sources)
    plan = plan_base(transport, folder.request)
    uploads = watched.send(transport, plan.missing, progress)
    return commit_base(transport, BaseCommit(request=folder.request, uploads=uploads), progress)


@dataclass(frozen=True)
class _Watched:
    """Files that were hashed, as they were then. What changes until it has been sent is refused."""

    stamps: Mapping[str, tuple[Path, tuple[int, ...]]]  # by digest

    @classmethod
    def now(cls, claims: Sequence[FileClaim], sources: Mapping[str, Path]) -> _Watched:
        stamps = {digest: (file, _stamp(file)) for digest, file in sources.items()}
        for claim in claims:
            file, stamp = stamps[claim.digest]
            if stamp[0] != claim.size:
                raise _changed(file)
        return cls(stamps)

    def send(self, transport: Transport, missing: Sequence[str], progress: Progress) -> dict[str, str]:
        """Upload what the service lacks; the id of each upload, by digest."""
        digests = list(dict.fromkeys(missing))
        if unknown := [digest for digest in digests if digest not in self.stamps]:
            raise IntegrityError(
                f"{transport.url} asks for {unknown[0]}, which is none of the files that were announced."
            )
        if not digests:
            return {}
        progress.begin("Uploading", sum(self.stamps[digest][1][0] for digest in digests))
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
        file, _ = self.stamps[digest]
        self._check(digest)
        try:
            return FileSource(file)
        except OSError as problem:
            raise _unreadable(file, problem) from problem

    def _check(self, digest: str) -> None:
        file, stamp = self.stamps[digest]
        if _stamp(file) != stamp:
            raise _changed(file)


def _stamp(file: Path) -> tuple[int, ...]:
    try:
        found = file.stat()
    except OSError as problem:
        raise _unreadable(file, problem) from problem
    return found.st_size, found.st_mtime_ns, found.st_ino


def _changed(file: Path) -> IntegrityError:
    return IntegrityError(
        f"{file} was changed while it was read; wait until nothing writes to it and run this again.",
        code="upload_mismatch",
    )


def _unreadable(file: Path, problem: OSError) -> RegistryError:
    if isinstance(problem, FileNotFoundError):
        return _changed(file)
    return unreadable(file, problem)
