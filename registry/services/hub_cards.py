"""What the Hub's clients are told about repos beside their files: what for, by which library, from which base model.

It is made of what the pinned README.md is made of, with the edited card over it, and so may change at any time.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from registry.catalogue.tree.repo_rows import Listed
from registry.digest import StoredFile
from registry.reference import hub_name
from registry.schemas import ArtifactKind
from registry.schemas.artifacts import KINDS
from registry.services.artifacts.readme import front_matter
from registry.services.artifacts.readme.facts import BaseFacts, base_facts, library, pipeline_tag
from registry.services.lineage import Blobs

_UNSAFE: Final = frozenset({"self", "ignore_metadata_errors", "eval_results"})
"""Names that the clients' classes can't take as fields of a card."""


@dataclass(frozen=True)
class RepoCard:
    """The metadata of a repo."""

    data: dict[str, Any]  # as front matter
    library: str | None
    pipeline_tag: str | None
    tags: tuple[str, ...]


def repo_card(
    kind: ArtifactKind,
    base: BaseFacts,
    base_model: str,
    *,
    adapter_config: Mapping[str, Any] | None,
    edited: Mapping[str, Any],
    said: Mapping[str, Any],
) -> RepoCard:
    """The metadata of a repo.

    Args:
        kind: what the view serves.
        base: what the base model's files say.
        base_model: as cards name it.
        adapter_config: of the revision; None: the repo is the base model itself.
        edited: the front matter of the edited card.
        said: tags and metrics of the revision, with its reference.
    """
    is_base = adapter_config is None
    made: dict[str, Any] = dict(base.metadata) if is_base else {"base_model": base_model, **base.licence}
    made["library_name"] = library(base, kind, is_base=is_base)
    made["pipeline_tag"] = pipeline_tag(base, adapter_config)
    if not is_base:
        made["base_model_relation"] = "finetune" if KINDS[kind].is_model else "adapter"
    data = {key: value for key, value in {**made, **edited}.items() if value is not None and key not in _UNSAFE}
    if "tags" in data:
        data["tags"] = list(front_matter.texts(data["tags"]))
    if said:
        data["registry"] = dict(said)
    named = {key: next(iter(front_matter.texts(data.get(key))), None) for key in ("library_name", "pipeline_tag")}
    return RepoCard(data, named["library_name"], named["pipeline_tag"], _tags(data, named, said))


def _tags(data: Mapping[str, Any], named: Mapping[str, str | None], said: Mapping[str, Any]) -> tuple[str, ...]:
    """What the Hub calls tags: searchable words, among which the fields of the card are."""
    found = [one for one in named.values() if one is not None]
    found += front_matter.texts(data.get("tags"))
    for key in ("base_model", "license", "datasets", "language"):
        prefix = {"datasets": "dataset:", "language": ""}.get(key, f"{key}:")
        found += (prefix + one for one in front_matter.texts(data.get(key)))
    found += (f"tag:{one}" for one in said.get("tags", ()))
    return tuple(dict.fromkeys(found))


@dataclass(frozen=True)
class ListedRepo:
    """A repo in the list of a view."""

    repo_id: str
    base: str
    created_at: datetime
    modified_at: datetime
    card: RepoCard


def listed_repo(blobs: Blobs, kind: ArtifactKind, row: Listed, files: tuple[StoredFile, ...]) -> ListedRepo:
    """A row of the catalogue as a repo; ``files`` are those of its base model."""
    said: dict[str, Any] = {}
    config = None
    if row.revision is not None:
        config = json.loads(row.revision.manifest)["config"]
        said = {"tags": list(row.revision.tags)}
    card = repo_card(
        kind,
        base_facts(blobs, files),
        hub_name(row.path.base, row.source),
        adapter_config=config,
        edited=row.front_matter,
        said=said,
    )
    modified = row.created_at if row.revision is None else row.revision.created_at
    return ListedRepo(row.path.repo_id, row.path.base, row.created_at, modified, card)
