"""Commit ids of the Hub-compatible views, which always name the same bytes; and materialised artifacts by their plan.

The first 28 identify the meaning: the view, the repo, and the digests of the revision and the base model. They are
found by an index (`registry.catalogue.tree.commits`). The other 12 identify how the bytes are rendered, so that a
replica can tell that it would render them differently.

Materialised artifacts: found by plan, and opened like any other artifact.

A materialisation takes precedence even if another arithmetic than this machine's made it. So all replicas serve the
same bytes of a materialised artifact, whatever processors they run on.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import cache
from typing import Any, Final, Protocol

from sqlalchemy.orm import Session

from registry.catalogue.store import materialisations as rows
from registry.catalogue.tree.commits import MEANT, BaseDigests, document
from registry.digest import StoredFile, canonical_json
from registry.errors import IntegrityError
from registry.reference import Path
from registry.schemas import ArtifactKind, Fidelity, Options
from registry.schemas.artifacts import BASE_KIND, KINDS, TRAINED_ON
from registry.tensors.artifacts.artifact import Artifact, Measured
from registry.tensors.artifacts.plan import ARTIFACT_FORMAT, PLAN_FORMAT, Plan, fingerprint
from registry.tensors.lineage.inputs import stored_files
from registry.tensors.lineage.paths import Blobs, LoadedPath
from registry.tensors.lineage.plan import make_plan


@dataclass(frozen=True)
class Kept:
    """A materialisation that has not expired, and its files."""

    id: str
    plan: Plan
    rendering: str
    numerics: str | None  # fingerprint of the machine that made it
    notices: tuple[str, ...]
    files: tuple[StoredFile, ...]  # by path


def kept_for(session: Session, path: LoadedPath, plan: Plan | None) -> Kept | None:
    """The materialisation of a path by its plain plan and this version's `ARTIFACT_FORMAT`; None: it has none.

    A revision may have others: with other artifact formats, or other plans (its base model's table was remade).
    """
    if plan is None:
        return None
    tip = path.links[-1]
    row = rows.of_plan(session, tip.path, tip.number, plan.digest, ARTIFACT_FORMAT)
    return None if row is None else Kept(row.id, plan, row.rendering, row.numerics, row.notices, row.files)


def plain_plan(path: LoadedPath, options: Options) -> Plan | None:
    """The plan under which a path can be materialised; None with other options, or if its bytes are stored anyway."""
    if KINDS[options.kind].is_verbatim or not path.links or options != Options(kind=options.kind):
        return None
    return make_plan(path, None, options)


def open_kept(blobs: Blobs, kept: Kept, fidelity: Fidelity | None = None) -> Artifact:
    """The artifact, read from the materialisation's blobs, with what was measured when it was made.

    Raises:
        IntegrityError: the recorded rendering is not that of its plan and arithmetic.
    """
    with ExitStack() as opened:
        files = stored_files(blobs, kept.files, opened)
        release = opened.pop_all().close
        artifact = Artifact(
            kept.plan,
            files,
            notices=kept.notices,
            numerics=kept.numerics,
            meter=Measured(fidelity),
            release=release,
        )
        if artifact.rendering != kept.rendering:
            artifact.close()
            raise IntegrityError(
                f"The materialisation {kept.id} is recorded as {kept.rendering}, but its plan and arithmetic give "
                f"{artifact.rendering}: drop it with `registry materialise --drop {kept.id}`."
            )
        return artifact


_COMMIT: Final = re.compile(r"[0-9a-f]{40}")


class NamedBase(BaseDigests, Protocol):
    """A base model, as commits name it."""

    @property
    def hub_name(self) -> str: ...


def is_commit(text: str) -> bool:
    """Whether a text is a full commit id."""
    return _COMMIT.fullmatch(text) is not None


@dataclass(frozen=True)
class RepoNames:
    """The commit ids of one repo. A base model is the same in all views."""

    kind: ArtifactKind
    path: Path
    base: str  # digest
    base_files: str
    table: str
    base_model: str  # as cards name it

    @classmethod
    def of(cls, kind: ArtifactKind, path: Path, base: NamedBase) -> RepoNames:
        """The commit ids of a repo in the view of this kind."""
        kind = BASE_KIND if path.is_base else kind
        return cls(kind, path, base.digest, base.files_digest, base.table_digest, base.hub_name)

    def beside(self, kind: ArtifactKind, path: Path) -> RepoNames:
        """The commit ids of another path of the same base model."""
        return replace(self, kind=BASE_KIND if path.is_base else kind, path=path)

    def meaning(self, revision: str | None) -> str:
        """The first 28 hex digits for a revision by its digest; None: for the base model itself."""
        if (revision is None) != self.path.is_base:
            raise AssertionError("a base model has no revisions, and only a base model has none")
        return hashlib.sha256(canonical_json(self._document(revision))).hexdigest()[:MEANT]

    def commit(self, revision: str | None) -> str:
        """The commit id of a revision as this machine renders it."""
        return self.meaning(revision) + self.making

    @property
    def making(self) -> str:
        """The last 12 hex digits as this machine renders the repo."""
        return self.made_by(None if KINDS[self.kind].is_verbatim else fingerprint())

    def made_by(self, numerics: str | None) -> str:
        """The last 12 hex digits for an arithmetic; None: bytes are served verbatim, whatever the formats."""
        return _made_by(numerics, self.base_model)

    def find(self, commit: str, revisions: Iterable[str]) -> str | None:
        """The digest in ``revisions`` that a commit id means; None: it means none of them."""
        wanted = commit[:MEANT]
        return next((digest for digest in revisions if self.meaning(digest) == wanted), None)

    def _document(self, revision: str | None) -> dict[str, Any]:
        view = "base" if self.path.is_base else self.kind
        given = {"base": self.base, "base_files": self.base_files, "table": self.table}
        return document(view, self.path.repo_id, revision, **given)


@cache
def _made_by(numerics: str | None, base_model: str) -> str:
    if numerics is None:
        document: dict[str, Any] = {"formats": None, "numerics": None}
    else:
        document = {"formats": [PLAN_FORMAT, ARTIFACT_FORMAT], "numerics": numerics, "base_model": base_model}
    return hashlib.sha256(canonical_json(document)).hexdigest()[: 40 - MEANT]


def commit_below(path: Path, base: NamedBase, revision: str | None) -> str:
    """The commit of the model that a composed adapter applies to: a base model, or a revision's merged path."""
    return RepoNames.of(TRAINED_ON, path, base).commit(revision)
