"""The registry over HTTP: `Registry` and `Transfer` of `registry.operations`, and verification.

Verifies a fetched folder against a service: byte by byte, or by tensor if the arithmetic differs.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, suppress
from os import PathLike
from pathlib import Path

from registry.client.artifacts import RemoteArtifact, measured_by_service, plan_artifact
from registry.client.calls import do, listed
from registry.client.errors import RetryPolicy
from registry.client.fetch import Fetching
from registry.client.following import FollowingThere
from registry.client.publish import Uploads, add_base_folder
from registry.client.publish_target import RemoteTarget
from registry.client.ranges import RemoteBlob, open_blob
from registry.client.tensor_core import MakeArithmetic, Planner, missing, needed
from registry.client.transport import Transport
from registry.errors import NotFoundError, UnavailableError, UsageError
from registry.files.source import ByteSource
from registry.folders.receipts import receipt_in
from registry.folders.staging import FetchCache
from registry.operations.arguments import Export, check_order
from registry.operations.following import Following, Lost
from registry.operations.methods.analysis import WeightChanges
from registry.operations.methods.calls import Partner
from registry.operations.operation import A, Item, Listing, Operation, Part, R
from registry.operations.publication import Publication
from registry.operations.readable import LastOpened
from registry.operations.registry import Registry
from registry.progress import SILENT, Progress
from registry.reference import Path as TreePath
from registry.reference import Reference, check_base_name, hub_name
from registry.schemas import (
    BaseAdded,
    Copied,
    Fetched,
    Identity,
    Options,
    Shown,
    Verified,
)
from registry.schemas.form import MeasuredRows
from registry.schemas.labels import Exported
from registry.schemas.parents import Identified
from registry.schemas.publishing import ImportDocument
from registry.schemas.receipt import rendering_digest
from registry.schemas.team import FollowRequest
from registry.schemas.transfer import ArtifactPlan, BlobEntry
from registry.schemas.usage import Interface
from registry.transfer.copy import copy
from registry.transfer.fetched_folder import check_base, check_plan, verified
from registry.transfer.publishing import PublishingFolders
from registry.transfer.receipt_check import Ours
from registry.transfer.source import Extract, base_request
from registry.version import __version__


def verify(
    transport: Transport, folder: Path, *, arithmetic: MakeArithmetic | None, room: Path, progress: Progress
) -> Verified:
    """Check a fetched folder; see `registry.operations.registry.Registry.verify`.

    Raises:
        NotFoundError: the folder has no receipt, or the service lacks what the receipt names.
        IntegrityError: the receipt is not one, or its plan is not the service's plan of that lineage.
        UnavailableError: ``numerics``: the folder was made with another arithmetic, and comparing needs torch.
    """
    receipt = receipt_in(folder)
    since = None if receipt.since is None else _by_digest(receipt.since, receipt.plan.since)
    # By digest: numbers and names may be another registry's.
    ref = _by_digest(receipt.reference, receipt.tip)
    options = receipt.options.model_copy(update={"since": since})
    plan = plan_artifact(transport, ref, options, is_use=False)
    check_base(receipt, plan.base, plan.plan.base)
    check_plan(folder, receipt, plan.plan_digest)
    ours = _ours(transport, plan)
    if (why := ours.not_exact(receipt)) is not None and arithmetic is None:
        raise UnavailableError(
            f"{folder} was {why}, so bytes can't be compared, and {missing()}, which compares values, is not installed "
            f"here: pip install {missing()}.",
            code="numerics",
        )
    with RemoteArtifact(transport, plan, options, arithmetic=arithmetic, room=room) as artifact:
        compare = None if why is None else needed(arithmetic, "compare values").comparison
        fidelity = measured_by_service(transport, plan)
        answer = verified(folder, receipt, artifact.files, ours, compare, lambda: fidelity, progress)
        return answer.model_copy(update={"fidelity": fidelity})


def _ours(transport: Transport, plan: ArtifactPlan) -> Ours:
    """The service's description of the artifact, with the name in its README.md that gives the service's rendering."""
    made_of = (plan.plan_digest, plan.artifact_format, plan.numerics)
    known = True
    for name in _names(transport, plan):
        if rendering_digest(*made_of, name) == plan.rendering:
            break
    else:
        known, name = False, None
    return Ours(plan, transport.url, [file.path for file in plan.files], name, base_model_known=known)


def _names(transport: Transport, plan: ArtifactPlan) -> Iterator[str | None]:
    """Names of the model in README.md: none, the repo id in the views of what it applies to, or its repo on a Hub."""
    yield None
    below = plan.base if plan.since is None else str(Reference.parse(plan.since).path)
    yield TreePath.parse(below).repo_id
    with suppress(NotFoundError):  # a token may see the revision alone
        yield hub_name(plan.base, transport.get("/revisions", Shown, ref=plan.base).base.source)


def _by_digest(reference: str, digest: str | None) -> str:
    path = Reference.parse(reference).path
    return str(TreePath(path.base)) if digest is None else str(Reference(path, digest_prefix=digest))


Folder = str | PathLike[str]


class RemoteRegistry(PublishingFolders, Partner, Registry):
    """A registry behind a service. ``arithmetic`` loads this machine's tensor core, if it has one."""

    def __init__(
        self,
        url: str,
        token: str | None = None,
        *,
        cache: FetchCache,
        arithmetic: MakeArithmetic | None = None,
        retry: RetryPolicy | None = None,
        interface: Interface = "fetch",
        planner: Planner | None = None,
    ) -> None:
        self._transport = Transport(url, token, retry, interface)
        self._cache = cache
        self._arithmetic = arithmetic
        self._planner = planner
        self._last_changes: LastOpened[WeightChanges] = LastOpened()
        self._fetching = Fetching(self._transport, cache, arithmetic)

    @property
    def url(self) -> str:
        return self._transport.url

    def _do(self, operation: Operation[R, A], request: R, progress: Progress = SILENT) -> A:
        return do(self._transport, operation, request, progress)

    def _part(self, listing: Listing[R, Item], request: R, limit: int | None) -> Part[Item]:
        return listed(self._transport, listing, request, limit)

    def _follow(self, request: FollowRequest, lost: Lost | None) -> Following:
        return FollowingThere(self._transport, request, lost)

    def _add_base(self, name: str, folder: Folder, *, link: bool, variant: str | None, progress: Progress) -> BaseAdded:
        check_order(folder, name, check_base_name, "registry base add {name} {folder}", "the name")
        check_base_name(name)
        if link:
            raise UsageError(
                f"--link shares files with a registry in a folder of this machine, but {self.url} is a service."
            )
        made = base_request(name, folder, progress, variant)
        added = add_base_folder(self._transport, made, progress)
        self._fetching.remember(self.bundle(name).base.files_digest, made.folder)
        return added

    def _extract(self, publication: Publication, progress: Progress) -> Extract:
        arithmetic, target = needed(self._arithmetic, "compare a full model with its parent"), self._target()
        parent = target.parent_of_full(publication)
        # every element counts: what comes over the network is checked as a whole
        return lambda folder, asked, out: arithmetic.write_full(
            parent, self.open_blob, target.base_files(parent, progress), folder, asked, out, progress
        )

    def _from_pickle(self, pickle: Path, out: Path) -> None:
        needed(self._arithmetic, f"read {pickle}, a pickle").from_pickle(pickle, out)

    def _target(self) -> RemoteTarget:
        return RemoteTarget(self._transport, self._arithmetic, self._cache.folder)

    def _plan_import(self, source: str, progress: Progress) -> ImportDocument:
        if self._planner is None:
            needed(None, "plan an import")
            raise AssertionError("without torch that is refused")
        return self._planner(self, self._target(), source, progress)

    def _copy(self, ref: str, to: Registry, *, recursive: bool, progress: Progress) -> Copied:
        return copy(self, ref, to, recursive=recursive, progress=progress)

    def whoami(self) -> Identity:
        found = super().whoami()
        service = found.service_version or found.version
        return found.model_copy(update={"url": self.url, "version": __version__, "service_version": service})

    def _export(self, export: Export, progress: Progress) -> Exported:
        from registry.transfer.export import export as write

        return write(self, export, progress)

    def _artifact(self, ref: str, options: Options) -> RemoteArtifact:
        plan = plan_artifact(self._transport, ref, options)
        return RemoteArtifact(self._transport, plan, options, arithmetic=self._arithmetic, room=self._cache.folder)

    def _changes(self, ref: str, since: str | None) -> AbstractContextManager[WeightChanges]:
        arithmetic = needed(self._arithmetic, "read what a path changes")
        bundle, ancestor = self.bundle(ref), None if since is None else self.bundle(since)

        def opened() -> WeightChanges:
            self._fetching.say_use(bundle.reference)
            return arithmetic.changes(bundle, ancestor, self.open_blob, self._target().base_files(bundle, SILENT))

        return self._last_changes.of((bundle, ancestor), opened)

    def _fetch(
        self,
        ref: str,
        out: Path | None,
        options: Options,
        *,
        force: bool,
        base_dir: Path | None,
        measured: MeasuredRows,
        progress: Progress,
    ) -> Fetched:
        return self._fetching.fetch(
            ref, out, options, force=force, base_dir=base_dir, measured=measured, progress=progress
        )

    def _identify(self, folder: Path, look_in: tuple[Path, ...], progress: Progress) -> Identified:
        return needed(self._arithmetic, "identify a folder").identify(self._target(), folder, look_in, progress)

    def _verify(self, folder: Folder, progress: Progress) -> Verified:
        room = self._cache.folder
        return verify(self._transport, Path(folder), arithmetic=self._arithmetic, room=room, progress=progress)

    def note_use(self, ref: str) -> None:
        """Count a use of the weights of a pinned reference, which are read blob by blob."""
        self._fetching.say_use(ref)

    def open_blob(self, ref: str, blob: BlobEntry) -> RemoteBlob:
        return open_blob(self._transport, ref, blob, self._cache.folder)

    def upload(self, digest: str, source: ByteSource, *, progress: Progress = SILENT) -> str:
        return Uploads(self._transport, progress).send([(digest, source)])[digest]

    def reach(self) -> None:
        """See that something answers at the address; raises `UnavailableError`, and closes, if nothing does."""
        try:
            self._transport.reach()
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        self._last_changes.close()
        self._transport.close()
