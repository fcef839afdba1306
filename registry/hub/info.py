"""Model info of a repo, with what its card says."""

from __future__ import annotations

import json
from typing import Any

from fastapi.responses import JSONResponse
from sqlalchemy.orm import Session

from registry.catalogue.tree import browse, cards
from registry.catalogue.tree.revisions import RevisionRow
from registry.hub.entries import files_of, hub_time, id_of, sibling
from registry.hub.errors import EmptyRepoError
from registry.hub.requests import RepoQuery, RepoQueryParam, renamed_warning
from registry.reference import MAIN
from registry.services.artifacts.readme.facts import base_facts
from registry.services.hub_cards import RepoCard, repo_card
from registry.services.hub_repos import Pinned


def model_info(query: RepoQueryParam) -> JSONResponse:
    """A repo at a revision; of one that is empty so far that it is there."""
    try:
        return _model_info(query)
    except EmptyRepoError as empty:
        if query.revision not in {MAIN, empty.sha}:
            raise
        found = {"id": query.repo_id, "modelId": query.repo_id, "sha": empty.sha, "private": False, "siblings": []}
        return JSONResponse(found | {"tags": []})


def _model_info(query: RepoQuery) -> JSONResponse:
    with query.deployment.read() as session:
        pinned = query.pinned_in(session)
        edited, said = {}, {}
        if pinned.revision is not None:
            edited, said = cards.own_metadata(session, pinned.revision.adapter_id), _said(session, pinned.revision)
    query.deployment.note_load(pinned.asked.path.reference, weights=False)  # transformers 5 asks no more of what it has
    repo, repo_id, blobs = pinned.repo, query.repo_id, query.flag("blobs")
    card = _card(query, pinned, edited, said)
    known = {"library_name": card.library, "pipeline_tag": card.pipeline_tag}
    return JSONResponse(
        {
            "_id": id_of(repo_id),
            "id": repo_id,
            "modelId": repo_id,
            "author": repo_id.partition("/")[0],
            "sha": pinned.commit,
            "createdAt": hub_time(repo.created_at),
            "lastModified": hub_time(pinned.at),
            "private": False,
            "gated": False,
            "disabled": False,
            "tags": list(card.tags),
            **{key: value for key, value in known.items() if value is not None},
            "cardData": card.data,
            "siblings": [sibling(file, blobs=blobs) for file in files_of(query, pinned)],
        },
        headers=renamed_warning(repo),
    )


def auth_check(query: RepoQueryParam) -> JSONResponse:
    """Whether the token may read a repo: an error says that it may not."""
    with query.deployment.read() as session:
        query.repo(session)
    return JSONResponse({})


def _card(query: RepoQuery, pinned: Pinned, edited: dict[str, Any], said: dict[str, Any]) -> RepoCard:
    repo = pinned.repo
    config = None if pinned.revision is None else json.loads(pinned.revision.manifest)["config"]
    facts = base_facts(query.deployment.artifact_blobs, repo.base.files)
    return repo_card(repo.kind, facts, repo.base.hub_name, adapter_config=config, edited=edited, said=said)


def _said(session: Session, row: RevisionRow) -> dict[str, Any]:
    tags, metrics = browse.labels(session, row.id)
    return {"reference": row.reference, "digest": row.digest, "tags": list(tags), "metrics": metrics}
