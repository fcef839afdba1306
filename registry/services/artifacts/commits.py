"""Commit ids of the Hub-compatible views: 40 hex digits that always name the same bytes.

The first 28 identify the meaning: the view, the repo, and the digests of the revision and the base model. They are
found by an index (`registry.catalogue.tree.commits`). The other 12 identify how the bytes are rendered, so that a
replica can tell that it would render them differently.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import cache
from typing import Any, Final, Protocol

from registry.catalogue.tree.commits import MEANT, BaseDigests, document
from registry.digest import canonical_json
from registry.reference import Path
from registry.schemas import ArtifactKind
from registry.schemas.artifacts import BASE_KIND, KINDS, TRAINED_ON
from registry.tensors.artifacts.plan import ARTIFACT_FORMAT, PLAN_FORMAT, fingerprint

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
