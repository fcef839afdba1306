"""The card of an export, README.md of a repository that leaves the team; and the metadata of a repo for Hub clients.

Front matter has what a Hub reads of a model. A path is its customers' names, so without ``with_names`` the card is made
of digests, figures and the base model's own files: nothing that a publisher wrote goes out but metrics, licence,
language and the like, and of these none that holds a name of the path. Annotations stay in the registry in any case.

The metadata that Hub clients receive in addition to a repo's files: its purpose, its library, its base model.

It is made from the sources of the pinned README.md with the edited card over them, and so may change at any time.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from registry.catalogue.tree import browse, cards, old_names, revisions
from registry.catalogue.tree.repo_rows import Listed
from registry.digest import StoredFile
from registry.errors import UsageError
from registry.figures import short_digest
from registry.folders.hub.repository import check_repo_id
from registry.folders.scan import README, RECEIPT
from registry.reference import Reference, hub_name, on_the_hub
from registry.schemas import ArtifactKind, Options, RevisionSummary
from registry.schemas.artifacts import KINDS
from registry.schemas.labels import ExportCard
from registry.schemas.requests import ExportCardRequest
from registry.services.artifacts.load import path_in
from registry.services.artifacts.readme import front_matter
from registry.services.artifacts.readme.facts import (
    LICENCE,
    TAKEN,
    BaseFacts,
    about,
    base_facts,
    fields_of,
    is_licence,
    library,
    lineage_table,
    pipeline_tag,
    quoted,
    readme_text,
    text_of,
)
from registry.services.deployment import Deployment
from registry.tensors.lineage.inputs import exact_link
from registry.tensors.lineage.paths import Blobs, LoadedPath
from registry.tensors.lineage.plan import make_plan
from registry.transfer.export_contents import Hidden

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
        base: the facts in the base model's files.
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


_TITLES: Final = {"merged": "# Merged model", "lora": "# Composed adapter", "published": "# Adapter"}
_OF_A_TRAINER: Final = "base_model:"
"""Begins tags with which trainers name what they trained on: a folder, mostly."""


def export_card(deployment: Deployment, request: ExportCardRequest) -> ExportCard:
    """The card of an export; see `registry.operations.methods.importing.Exporting.export`.

    Raises:
        UsageError: it is a base model, or ``base_model`` is no name of a repository.
        NotFoundError: the reference names nothing.
        RetractedError: the path contains a retracted revision.
        InvalidAdapterError: ``not_composable``: the published files are those of an exact revision, which no program
            but a registry reads.
    """
    reference = Reference.parse(request.ref)
    with deployment.read() as session:
        path = path_in(session, reference)
    if not path.links:
        raise UsageError(
            f"{reference} is a base model: what was trained on it is exported, such as {reference}/NAME. The base "
            "model's own files are written by `registry fetch`."
        )
    if KINDS[request.kind].is_verbatim and path.links[-1].is_exact:
        raise exact_link(path.links[-1])
    if request.base_model is not None:
        check_repo_id(request.base_model)
    with deployment.read() as session:
        row = revisions.find(session, Reference.parse(path.reference))
        told = browse.summary(session, row.id)
        edited = cards.own_metadata(session, row.adapter_id)
        links = [link.path for link in path.links]
        others = {name for link in links for name in old_names.all_names(session, link, visible=True)} - set(links)
    hidden = Hidden.of(() if request.with_names else [path.base.name, *links, *others])
    config = json.loads(row.manifest)["config"]
    base_model = request.base_model or on_the_hub(path.base.source)
    metrics = {name: value for name, value in sorted(told.metrics.items()) if not hidden.in_text(name)}
    loads_on = base_model
    if KINDS[request.kind].tip_only and len(path.links) > 1:
        loads_on = request.base_model  # it is loaded onto its parent's merged model, and never onto the base alone
    fields, dropped = _fields(deployment, path, request, config, edited, base_model, hidden, metrics)
    return ExportCard(
        reference=path.reference,
        text=text_of(_parts(deployment, path, request, told, fields, metrics)).decode("utf-8"),
        base_model=base_model,
        loads_on=loads_on,
        lineage=(path.base.digest, *(link.digest for link in path.links)),
        left_out=tuple(sorted(told.metrics.keys() - metrics.keys())),
        notices=(*_notices(request, base_model, loads_on), *dropped),
        other_names=tuple(sorted(others)),
    )


def _fields(
    blobs: Blobs,
    path: LoadedPath,
    request: ExportCardRequest,
    config: Mapping[str, Any],
    edited: front_matter.Metadata,
    base_model: str | None,
    hidden: Hidden,
    metrics: Mapping[str, float],
) -> tuple[dict[str, Any], list[str]]:
    """The front matter, and remarks about what it lacks.

    The edited card is over the published README.md, which is over the base model's.
    """
    published = front_matter.split(_published(blobs, path) or "")[0]
    own = {key: value for key, value in edited.items() if key in TAKEN}
    facts = base_facts(blobs, path.base.files)
    found = fields_of(facts, {**published, **own}, request.kind, config, base_model)
    if is_licence(edited.get(LICENCE[0])):
        found = {key: value for key, value in found.items() if key not in LICENCE}
        found |= {key: edited[key] for key in LICENCE if is_licence(edited.get(key))}
    dropped = []
    for key in (*TAKEN, *LICENCE):
        if key not in found or (key in LICENCE and found[key] == facts.licence.get(key)):
            continue  # the base model's own licence, such as llama3, stays if the base model is called llama
        texts = front_matter.texts(found[key])
        kept = [text for text in texts if not _hides(hidden, text)]
        found[key] = (kept if isinstance(found[key], list) else kept[0]) if kept else None
        dropped += [
            f"{text!r} of {key} is left out of the card: it holds a name of the path."
            for text in texts
            if hidden.in_text(text)
        ]
    known: dict[str, Any] = {"revision": path.tip, "artifact": request.kind, "base": path.base.digest}
    known["lineage"] = [link.digest for link in path.links]
    if request.with_names:
        known["reference"] = path.reference
    index = _model_index(path, found["pipeline_tag"], metrics)
    return {**found, "model-index": index, "registry": known}, dropped


def _hides(hidden: Hidden, text: str) -> bool:
    return hidden.in_text(text) or text.startswith(_OF_A_TRAINER)


def _model_index(path: LoadedPath, task: str | None, metrics: Mapping[str, float]) -> list[dict[str, object]] | None:
    """Metrics as Hubs read them; on which data they were measured the registry does not know."""
    if not metrics:
        return None
    found = [{"type": name, "value": value, "name": name} for name, value in metrics.items()]
    unknown = {"type": "unknown", "name": "unknown"}
    result = {"task": {"type": task or "other"}, "dataset": unknown, "metrics": found}
    return [{"name": short_digest(path.tip), "results": [result]}]


def _parts(
    blobs: Blobs,
    path: LoadedPath,
    request: ExportCardRequest,
    told: RevisionSummary,
    fields: Mapping[str, Any],
    metrics: Mapping[str, float],
) -> Iterator[str]:
    yield front_matter.written(fields)
    yield _TITLES[request.kind]
    if KINDS[request.kind].tip_only:
        on = "the merged model of the revision above it, and not on the base model" if len(path.links) > 1 else ""
        yield f"One adapter as it was published; it goes on {on or 'the base model'}."
    else:
        yield about(make_plan(path, None, Options(kind=request.kind)), len(path.live), exact=path.exact is not None)
    if request.with_names and told.message:
        yield told.message
    if metrics:
        yield "## Metrics"
        rows = (f"| {_cell(name)} | {value!r} |" for name, value in metrics.items())
        yield "\n".join(("| metric | value |", "|---|---|", *rows))
    yield "## Lineage"
    yield "Root first; each revision was trained on the one above it."
    yield lineage_table(_called(path, with_names=request.with_names), path, {path.tip: " (this one)"})
    yield f"`{RECEIPT}` holds these digests: where a registry has the revisions, it proves what this was made of."
    if request.with_names:
        text = _published(blobs, path)
        yield from quoted(path.links[-1], _readme(path) is not None, text and front_matter.split(text)[1])


def _called(path: LoadedPath, *, with_names: bool) -> Sequence[str]:
    if not with_names:
        return ("base model", *("revision" for _ in path.links))
    return (f"base model {path.base.name}", *(f"revision {link.reference}" for link in path.links))


def _cell(text: str) -> str:
    """A text in a cell of a table."""
    return "`" + text.replace("|", "\\|").replace("`", "'") + "`"


def _readme(path: LoadedPath) -> StoredFile | None:
    return next((file for file in path.links[-1].files if file.path == README), None)


def _published(blobs: Blobs, path: LoadedPath) -> str | None:
    return readme_text(blobs, _readme(path))


def _notices(request: ExportCardRequest, base_model: str | None, loads_on: str | None) -> Iterator[str]:
    if base_model is None:
        yield (
            "Nothing in the export names the base model, which was added from a folder: if it is on the Hub, name it "
            "with --base-model ORG/REPO."
        )
    elif loads_on is None and not KINDS[request.kind].is_model:
        yield (
            "The adapter goes on the merged model of its parent, and its configuration names none: export that model "
            "(--as merged) and name it with --base-model ORG/REPO, or export one adapter for the whole path "
            "(--as lora)."
        )
