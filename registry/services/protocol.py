"""The registry as its users see it: one protocol, implemented in process and over HTTP.

Every implementation passes the same conformance suite. All errors are `registry.errors`. `registry.services.transfer`
is what registries say to each other below this.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from os import PathLike
from typing import TYPE_CHECKING, Protocol

from registry.progress import SILENT, Progress
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
    Materialisation,
    Materialised,
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
    Truncation,
    Verified,
)

if TYPE_CHECKING:
    import torch

    from registry.services.transfer import Transfer

Folder = str | PathLike[str]


class ReadableFile(Protocol):
    """One file of an artifact."""

    @property
    def path(self) -> str:
        """Its name, ``/``-separated."""

    @property
    def size(self) -> int:
        """Bytes."""

    def chunks(self, start: int = 0, stop: int | None = None) -> Iterator[memoryview]:
        """The bytes ``start`` to ``stop`` in order, in pieces."""

    def read(self, start: int = 0, stop: int | None = None) -> bytes:
        """The bytes ``start`` to ``stop``, in memory."""


class ReadableArtifact(Protocol):
    """Named files handed out for a plan, wherever they are computed. Close it, or use it as a context manager."""

    @property
    def kind(self) -> ArtifactKind:
        """published, lora or merged."""

    @property
    def rendering(self) -> str:
        """Digest that names the artifact's bytes."""

    @property
    def size(self) -> int:
        """Bytes of all files."""

    @property
    def files(self) -> Mapping[str, ReadableFile]:
        """The files by name."""

    @property
    def notices(self) -> tuple[str, ...]:
        """What a user should know about it."""

    @property
    def truncation(self) -> Truncation | None:
        """The report, where ranks were lowered."""

    def file(self, path: str) -> ReadableFile:
        """The file of that name; raises `NotFoundError`."""

    def tensors(self) -> Iterator[tuple[str, torch.Tensor]]:
        """Names and tensors of all weights, one by one, in the order of their bytes."""

    def close(self) -> None:
        """Release what it reads from."""

    def __enter__(self) -> ReadableArtifact: ...

    def __exit__(self, *exc: object) -> None: ...


class Registry(Protocol):
    """Adapters as a tree of immutable revisions; what a path of it means, as weights."""

    @property
    def url(self) -> str:
        """Where this registry is: a folder, or an address."""

    def add_base(self, name: str, folder: Folder, *, link: bool = False, progress: Progress = SILENT) -> BaseAdded:
        """Add the base model in ``folder`` (Hugging Face layout, or ``hf:ORG/REPO[@REVISION]``) under ``name``."""

    def bases(self) -> tuple[BaseSummary, ...]:
        """All base models, by name."""

    def publish(
        self,
        folder: Folder,
        path: str,
        *,
        parent: str | None = None,
        receipt: Folder | None = None,
        message: str = "",
        metrics: Mapping[str, float] = {},
        tags: Iterable[str] = (),
        annotations: Mapping[str, str] = {},
        progress: Progress = SILENT,
    ) -> Published:
        """Publish the PEFT adapter in ``folder``, or ``hf:ORG/REPO[@REVISION]``, as the next revision of ``path``."""

    def publish_tree(
        self,
        folder: Folder,
        base: str,
        *,
        published: Callable[[Published], None] = lambda _: None,
        progress: Progress = SILENT,
    ) -> tuple[Published, ...]:
        """Publish every adapter in a nested folder, parents first: nesting is the path below ``base``.

        ``published`` is called after each one. A second run goes on where the first was stopped.
        """

    def tree(self, path: str | None = None) -> Tree:
        """Adapters as a tree: everything, or what is at and under ``path``."""

    def log(self, path: str) -> Log:
        """All revisions of an adapter, newest first."""

    def show(self, ref: str) -> Shown:
        """Everything about a revision."""

    def resolve(self, ref: str) -> Resolved:
        """Which revision a reference means now."""

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
        """Revisions that meet every given condition; ``rank`` as ``<=16``, ``metric`` as ``acc>0.8``."""

    def tag(self, ref: str, tag: str) -> Tagged:
        """Let ``tag`` name the revision, moving it if it named another."""

    def untag(self, path: str, tag: str) -> Tagged:
        """Remove a tag."""

    def annotate(
        self, ref: str, *, metrics: Mapping[str, float] = {}, annotations: Mapping[str, str] = {}
    ) -> RevisionSummary:
        """Add or replace metrics and annotations of a revision."""

    def events(self, *, limit: int = 100) -> tuple[Event, ...]:
        """What was changed, newest first."""

    def delete(self, ref: str) -> Deleted:
        """Delete a revision that nothing was trained on; its number is never given again."""

    def retract(self, ref: str, *, reason: str = "", undo: bool = False) -> Retracted:
        """Stop handing out a revision and everything that contains it, or ``undo`` that; history stays readable."""

    def protect_tag(self, base: str, pattern: str, *, remove: bool = False) -> tuple[ProtectedTag, ...]:
        """Let only admins move the tags that match a pattern; answers with all that is protected at this base."""

    def copy(self, ref: str, to: Transfer, *, recursive: bool = False, progress: Progress = SILENT) -> Copied:
        """Copy a path, or a whole subtree, with its lineage into another registry; goes on where it stopped."""

    def gc(self, *, dry_run: bool = False, progress: Progress = SILENT) -> Collected:
        """Collect the blobs that no revision needs, past their grace period."""

    def fsck(self, *, deep: bool = False, progress: Progress = SILENT) -> Checked:
        """Check that every row has its blob and, ``deep``, every blob its bytes."""

    def whoami(self) -> Identity:
        """Who acts, with which rights, and which versions answer."""

    def create_token(
        self, role: Role, *, name: str = "", scopes: Iterable[str] = (), expires_in: int | None = None
    ) -> TokenCreated:
        """Make a token; ``expires_in`` in seconds. Its secret is in this answer and nowhere else."""

    def tokens(self) -> tuple[Token, ...]:
        """All tokens, newest first."""

    def revoke_token(self, token: str) -> Token:
        """Make a token, named by its id, worthless at once."""

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
    ) -> ReadableArtifact:
        """The files that a reference means, readable by range, without writing anything.

        ``rank`` and ``max_error`` truncate a composed adapter: a cap for each module, and a bound of the relative
        Frobenius error over all of them. ``uniform`` fills it with zeros to one rank.
        """

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
        """Write an artifact into a folder, with a receipt beside its files.

        ``base_dir`` holds the base model's files on this machine: a merged model is then computed here, from the
        adapters alone, where the registry is a service. Its digests are checked.
        """

    def verify(self, folder: Folder, *, progress: Progress = SILENT) -> Verified:
        """Check a fetched folder against its receipt and, by computing it again, against the registry."""

    def materialise(
        self, ref: str, *, kind: ArtifactKind = "lora", expires_in: int | None = None, progress: Progress = SILENT
    ) -> Materialised:
        """Keep the artifact that a reference means in the store, as files that are only copied when they are read.

        ``expires_in`` in seconds; 30 days without it. What is kept already is kept for longer, and never for less.
        """

    def materialisations(self, ref: str | None = None) -> tuple[Materialisation, ...]:
        """What is kept so, by path and number: all, or at and under a path, or of one revision (``PATH@...``)."""

    def drop_materialisation(self, which: str, *, kind: ArtifactKind | None = None) -> tuple[Materialisation, ...]:
        """Keep one no longer, named by its id; or all of a revision, or only its ``kind``. Answers with those."""

    def close(self) -> None:
        """Release connections and files."""
