"""The registry over HTTP: `registry.services.protocol.Registry` and `registry.services.transfer.Transfer`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from os import PathLike
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Final
from urllib.parse import quote

from registry.catalogue.texts import check_annotations, check_metrics, check_text
from registry.client.arithmetic import MakeArithmetic
from registry.client.artifacts import RemoteArtifact, plan_artifact
from registry.client.blobs import RemoteBlob, open_blob
from registry.client.browsing import BasePage, EventPage, ProtectedTags, References, RevisionPage, TokenPage, listed
from registry.client.fetching import Fetching
from registry.client.materialising import RemoteMaterialisations
from registry.client.operations import result_of
from registry.client.patience import Patience
from registry.client.publishing import (
    add_base_folder,
    commit_base,
    commit_publish,
    plan_base,
    plan_publish,
    publish_folder,
)
from registry.client.transport import Transport
from registry.client.uploads import Uploads
from registry.client.verifying import verify
from registry.errors import UsageError
from registry.folders.cache import FetchCache
from registry.folders.nested import nested_adapters
from registry.progress import SILENT, Progress
from registry.reference import Path as TreePath
from registry.reference import check_base_name, check_tag
from registry.rights import Role
from registry.schemas import (
    ArtifactKind,
    BaseAdded,
    BaseSummary,
    Checked,
    Collected,
    Copied,
    Deleted,
    Dtype,
    Event,
    Fetched,
    Identity,
    Log,
    Options,
    ProtectedTag,
    Published,
    Resolved,
    Retracted,
    RevisionSummary,
    SearchResult,
    Shown,
    Tagged,
    Token,
    TokenCreated,
    Tree,
    Verified,
)
from registry.services.arguments import asked
from registry.services.copying import copy
from registry.services.given import own_folder
from registry.services.requests import base_request, publish_request
from registry.tensors.files.source import ByteSource
from registry.version import __version__
from registry.wire import (
    AnnotateRequest,
    BaseCommit,
    BasePlan,
    BaseRequest,
    BlobEntry,
    Bundle,
    FsckRequest,
    GcRequest,
    ProtectRequest,
    PublishCommit,
    PublishPlan,
    PublishRequest,
    RetractRequest,
    TagRequest,
    TokenRequest,
)

if TYPE_CHECKING:
    from registry.services.transfer import Transfer

Folder = str | PathLike[str]
NO_METRICS: Final[Mapping[str, float]] = MappingProxyType({})
NO_TEXTS: Final[Mapping[str, str]] = MappingProxyType({})


def _nothing(answer: Published) -> None:
    del answer


class RemoteRegistry(RemoteMaterialisations):
    """A registry that a service keeps. ``arithmetic`` loads this machine's tensor core, where it has one."""

    def __init__(
        self,
        url: str,
        token: str | None = None,
        *,
        cache: FetchCache,
        arithmetic: MakeArithmetic | None = None,
        patience: Patience | None = None,
    ) -> None:
        self._transport = Transport(url, token, patience)
        self._cache = cache
        self._arithmetic = arithmetic
        self._fetching = Fetching(self._transport, cache, arithmetic)

    @property
    def url(self) -> str:
        return self._transport.url

    def add_base(self, name: str, folder: Folder, *, link: bool = False, progress: Progress = SILENT) -> BaseAdded:
        check_base_name(name)
        if link:
            raise UsageError(
                f"--link shares files with a registry in a folder of this machine, but {self.url} is a service."
            )
        made = base_request(name, folder, progress)
        added = add_base_folder(self._transport, made, progress)
        self._fetching.remember(self.bundle(name).base.files_digest, made.folder)
        return added

    def bases(self) -> tuple[BaseSummary, ...]:
        return listed(self._transport, "/bases", BasePage)

    def publish(
        self,
        folder: Folder,
        path: str,
        *,
        parent: str | None = None,
        receipt: Folder | None = None,
        message: str = "",
        metrics: Mapping[str, float] = NO_METRICS,
        tags: Iterable[str] = (),
        annotations: Mapping[str, str] = NO_TEXTS,
        progress: Progress = SILENT,
    ) -> Published:
        made = publish_request(
            folder,
            str(TreePath.parse(path)),
            parent=parent,
            receipt=None if receipt is None else Path(receipt),
            message=check_text("The message", message),
            metrics=check_metrics(metrics),
            tags=tuple(check_tag(tag) for tag in tags),
            annotations=check_annotations(annotations),
            progress=progress,
        )
        return publish_folder(self._transport, made, progress)

    def publish_tree(
        self,
        folder: Folder,
        base: str,
        *,
        published: Callable[[Published], None] = _nothing,
        progress: Progress = SILENT,
    ) -> tuple[Published, ...]:
        answers: dict[TreePath, Published] = {}
        for node in nested_adapters(own_folder(folder, "publish -r"), base):
            above = answers.get(node.path.parent) if node.path.parent else None
            parent = above.revision.reference if above else None
            answers[node.path] = self.publish(node.folder, str(node.path), parent=parent, progress=progress)
            published(answers[node.path])
        return tuple(answers.values())

    def tree(self, path: str | None = None) -> Tree:
        return self._transport.get("/tree", Tree, path=path)

    def log(self, path: str) -> Log:
        revisions = listed(self._transport, "/log", RevisionPage, path=path)
        return Log(path=str(TreePath.parse(path)), revisions=revisions)

    def show(self, ref: str) -> Shown:
        return self._transport.get("/revisions", Shown, ref=ref)

    def resolve(self, ref: str) -> Resolved:
        return self._transport.get("/resolve", Resolved, ref=ref)

    def search(
        self,
        text: str | None = None,
        *,
        base: str | None = None,
        tag: str | None = None,
        rank: str | None = None,
        metric: str | None = None,
        target: str | None = None,
    ) -> SearchResult:
        conditions = {"text": text, "base": base, "tag": tag, "rank": rank, "metric": metric, "target": target}
        return SearchResult(revisions=listed(self._transport, "/search", RevisionPage, **conditions))

    def tag(self, ref: str, tag: str) -> Tagged:
        return self._transport.send("PUT", "/tags", Tagged, asked(TagRequest, ref=ref, tag=tag))

    def untag(self, path: str, tag: str) -> Tagged:
        return self._transport.send("DELETE", "/tags", Tagged, again=False, path=path, tag=tag)

    def annotate(
        self, ref: str, *, metrics: Mapping[str, float] = NO_METRICS, annotations: Mapping[str, str] = NO_TEXTS
    ) -> RevisionSummary:
        request = asked(
            AnnotateRequest, ref=ref, metrics=check_metrics(metrics), annotations=check_annotations(annotations)
        )
        return self._transport.send("POST", "/annotations", RevisionSummary, request)

    def events(self, *, limit: int = 100) -> tuple[Event, ...]:
        return listed(self._transport, "/events", EventPage, limit)

    def delete(self, ref: str) -> Deleted:
        return self._transport.send("DELETE", "/revisions", Deleted, again=False, ref=ref)

    def retract(self, ref: str, *, reason: str = "", undo: bool = False) -> Retracted:
        request = asked(RetractRequest, ref=ref, reason=reason, undo=undo)
        return self._transport.send("POST", "/retractions", Retracted, request)

    def protect_tag(self, base: str, pattern: str, *, remove: bool = False) -> tuple[ProtectedTag, ...]:
        request = asked(ProtectRequest, base=base, pattern=pattern, remove=remove)
        return self._transport.send("PUT", "/protected-tags", ProtectedTags, request).root

    def copy(self, ref: str, to: Transfer, *, recursive: bool = False, progress: Progress = SILENT) -> Copied:
        return copy(self, ref, to, recursive=recursive, progress=progress)

    def gc(self, *, dry_run: bool = False, progress: Progress = SILENT) -> Collected:
        answer = self._transport.call("POST", "/gc", body=GcRequest(dry_run=dry_run), again=dry_run, slow=True)
        return result_of(self._transport, answer, Collected, progress)

    def fsck(self, *, deep: bool = False, progress: Progress = SILENT) -> Checked:
        answer = self._transport.call("POST", "/fsck", body=FsckRequest(deep=deep), slow=True)
        return result_of(self._transport, answer, Checked, progress)

    def whoami(self) -> Identity:
        found = self._transport.get("/whoami", Identity)
        service = found.service_version or found.version
        return found.model_copy(update={"url": self.url, "version": __version__, "service_version": service})

    def create_token(
        self, role: Role, *, name: str = "", scopes: Iterable[str] = (), expires_in: int | None = None
    ) -> TokenCreated:
        request = asked(TokenRequest, name=name, role=role, scopes=tuple(scopes), expires_in=expires_in)
        return self._transport.send("POST", "/tokens", TokenCreated, request, again=False)

    def tokens(self) -> tuple[Token, ...]:
        return listed(self._transport, "/tokens", TokenPage)

    def revoke_token(self, token: str) -> Token:
        return self._transport.send("DELETE", f"/tokens/{quote(token, safe='')}", Token)

    def artifact(
        self,
        ref: str,
        *,
        kind: ArtifactKind = "lora",
        since: str | None = None,
        rank: int | None = None,
        max_error: float | None = None,
        uniform: bool = False,
        dtype: Dtype | None = None,
    ) -> RemoteArtifact:
        options = asked(Options, kind=kind, since=since, rank=rank, max_error=max_error, uniform=uniform, dtype=dtype)
        plan = plan_artifact(self._transport, ref, options)
        return RemoteArtifact(self._transport, plan, options, arithmetic=self._arithmetic, room=self._cache.folder)

    def fetch(
        self,
        ref: str,
        out: Folder | None = None,
        *,
        kind: ArtifactKind = "lora",
        since: str | None = None,
        rank: int | None = None,
        max_error: float | None = None,
        uniform: bool = False,
        dtype: Dtype | None = None,
        force: bool = False,
        base_dir: Folder | None = None,
        progress: Progress = SILENT,
    ) -> Fetched:
        options = asked(Options, kind=kind, since=since, rank=rank, max_error=max_error, uniform=uniform, dtype=dtype)
        return self._fetching.fetch(
            ref,
            None if out is None else Path(out),
            options,
            force=force,
            base_dir=None if base_dir is None else Path(base_dir),
            progress=progress,
        )

    def verify(self, folder: Folder, *, progress: Progress = SILENT) -> Verified:
        room = self._cache.folder
        return verify(self._transport, Path(folder), arithmetic=self._arithmetic, room=room, progress=progress)

    def bundle(self, ref: str) -> Bundle:
        return self._transport.get("/bundles", Bundle, slow=True, ref=ref)

    def subtree(self, path: str) -> tuple[str, ...]:
        return self._transport.get("/subtree", References, path=path).root

    def open_blob(self, ref: str, blob: BlobEntry) -> RemoteBlob:
        return open_blob(self._transport, ref, blob, self._cache.folder)

    def plan_publish(self, request: PublishRequest) -> PublishPlan:
        return plan_publish(self._transport, request)

    def plan_base(self, request: BaseRequest) -> BasePlan:
        return plan_base(self._transport, request)

    def upload(self, digest: str, source: ByteSource, *, progress: Progress = SILENT) -> str:
        return Uploads(self._transport, progress).send([(digest, source)])[digest]

    def commit_publish(self, commit: PublishCommit, *, progress: Progress = SILENT) -> Published:
        return commit_publish(self._transport, commit, progress)

    def commit_base(self, commit: BaseCommit, *, progress: Progress = SILENT) -> BaseAdded:
        return commit_base(self._transport, commit, progress)

    def close(self) -> None:
        self._transport.close()
