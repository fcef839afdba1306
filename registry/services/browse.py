"""``show``, ``resolve`` and ``where``, answered from the catalogue alone."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator

from sqlalchemy.orm import Session

from registry.catalogue.changes import notices
from registry.catalogue.changes.notices import KeptAnswer
from registry.catalogue.database.visibility import rights_of
from registry.catalogue.store import materialisations
from registry.catalogue.tree import bases, browse, cards, nodes, resolution, revisions, statistics, tag_moves
from registry.catalogue.tree.cards import uses
from registry.catalogue.tree.links import links
from registry.engines.rules import ENGINES, RULES
from registry.errors import NotAllowedError, NotFoundError, RegistryError, RetractedError, UsageError
from registry.folders.scan import EXACT_WEIGHTS
from registry.reference import MAIN, NamePattern, Path, Reference
from registry.schemas import FileEntry, Resolved, RevisionSummary, Shown
from registry.schemas.artifacts import EngineAnswer
from registry.schemas.followed import MOST_NAMES, Where, WhereRequest
from registry.schemas.requests import ReferenceRequest
from registry.services.deployment import Deployment


def shown(session: Session, reference: Reference) -> Shown:
    """Everything about a revision or a base model."""
    base = bases.summary(session, reference.path.base)
    if reference.path.is_base:
        return Shown(
            revision=None,
            base=base,
            lineage=(resolution.base_entry(base.name, base.digest),),
            targets=(),
            files=base.files,
            share_of_model=1.0,
            repo_id=reference.path.repo_id,
            repo_revisions=(MAIN,),
            children=nodes.of_base(session, base.name),
        )
    found = links(session, reference)
    row, stored = found[-1].revision, found[-1].files
    files = tuple(FileEntry(path=file.path, size=file.size, digest=file.digest) for file in stored)
    summary = browse.summary_of(session, found).model_copy(update={"statistics": statistics.values(session, row.id)})
    lineage = (resolution.base_entry(base.name, base.digest), *map(browse.entry, found))
    return Shown(
        revision=summary,
        base=base,
        lineage=lineage,
        targets=found[-1].targets,
        files=files,
        share_of_model=_weights(files) / max(1, _weights(base.files)),
        repo_id=reference.path.repo_id,
        repo_revisions=_names(summary, newest=lineage[-1].newest == row.number),
        children=nodes.of_revision(session, row.id),
        tag_history=tag_moves.histories(session, row, summary.tags),
        materialisations=tuple(one.shown for one in materialisations.of_revision(session, row.id)),
        use=uses(session, [row.id]).together,
        card=cards.state(session, row.adapter_id),
        notices=notices.notices(session, row.id),
        trained_quantised=json.loads(row.manifest).get("trained_quantised"),
        extracted=json.loads(row.manifest).get("extracted"),
        engines=_engines(notices.kept_answer(session, row.id)),
    )


def _engines(kept: Iterable[KeptAnswer]) -> tuple[EngineAnswer, ...]:
    """The results of the present rules."""
    found = {one.engine: one for one in kept}
    return tuple(
        EngineAnswer(
            engine=name,
            version=row.version,
            loads=not found[name].reasons,
            reasons=found[name].reasons,
            rank=found[name].rank,
            max_lora_rank=row.rank,
        )
        for name, row in ENGINES.items()
        if name in found and found[name].rules == RULES[name]
    )


def _names(summary: RevisionSummary, *, newest: bool) -> tuple[str, ...]:
    """The names of a revision in the Hub views; none if it is retracted, since the views don't serve it then."""
    if summary.retracted is not None:
        return ()
    return (f"r{summary.number}", *summary.tags, *((MAIN,) if newest else ()))


def _weights(files: Iterable[FileEntry]) -> int:
    """Total bytes of the files with weights."""
    return sum(file.size for file in files if file.path.endswith((".safetensors", EXACT_WEIGHTS)))


def resolved(deployment: Deployment, request: ReferenceRequest) -> Resolved:
    """The revision or base model that a reference means now.

    Raises:
        NotFoundError: naming what is missing and offering the nearest.
        UsageError: a digest prefix that several revisions share.
    """
    reference = Reference.parse(request.ref)
    while (found := deployment.ask(lambda reader: resolution.resolve(reader, reference))) is None:
        with deployment.read() as session:  # raises, unless it has come to be meanwhile
            if reference.path.is_base:
                bases.get(session, reference.path.base)
            else:
                revisions.find(session, reference)
    if not found.combined:
        return found.resolved
    with deployment.read() as session:
        return resolution.with_sources(session, found)


def where(deployment: Deployment, request: WhereRequest) -> tuple[Where, ...]:
    """Where many names and patterns point now; see `registry.operations.methods.browsing`.

    Raises:
        UsageError: they stand for too many.
    """
    asked: dict[str, Where | Reference] = {}
    with deployment.read() as session:
        for name in request.names:
            asked |= dict(_asked(session, name)) if name not in asked else {}
            if len(asked) > MOST_NAMES:
                raise UsageError(
                    f"The patterns match more than {MOST_NAMES} names with what is asked for before {name}; follow "
                    "fewer at a time, such as those below one path."
                )
    references = {name: one for name, one in asked.items() if isinstance(one, Reference)}
    found = deployment.ask(lambda reader: {name: resolution.resolve(reader, one) for name, one in references.items()})
    return tuple(
        one if isinstance(one, Where) else _where(deployment, name, one, found[name]) for name, one in asked.items()
    )


def _asked(session: Session, name: str) -> Iterator[tuple[str, Where | Reference]]:
    """What a name stands for: itself, or all that its pattern matches, or the reason why nothing."""
    rights = rights_of(session)
    try:
        meant = NamePattern.parse(name) if "*" in name else Reference.parse(name)
        path = Path(meant.base) if isinstance(meant, NamePattern) else meant.path
        if not rights.sees(path):  # said apart from what does not exist: who follows must not take it for deleted
            rights.require_on("reader", path, "follow what is")
    except (UsageError, NotAllowedError) as problem:
        yield name, _refused(name, problem)
        return
    if isinstance(meant, Reference):
        yield name, meant
        return
    matches = resolution.matching(session, meant, MOST_NAMES + 1)
    yield from ((str(one), one) for one in matches)
    if not matches:
        yield name, _refused(name, NotFoundError(f"No adapter that matches {name} has this tag."))


def _where(deployment: Deployment, name: str, reference: Reference, meant: resolution.Meant | None) -> Where:
    """Where a reference points: never at a revision of whose lineage or sources something is retracted."""
    found = None if meant is None or meant.combined else meant.resolved
    try:
        found = found or resolved(deployment, ReferenceRequest(ref=str(reference)))
    except (NotFoundError, UsageError) as problem:  # what else fails is no word about the name
        return _refused(name, problem)
    gone = next((one.reference for one in reversed(found.lineage) if one.retracted), None)
    if gone is None:
        return Where(name=name, reference=found.reference, digest=found.digest)
    its = "which was" if gone == found.reference else f"and {gone}, which it contains, was"
    return _refused(name, RetractedError(f"{name} is {found.reference}, {its} retracted."))


def _refused(name: str, problem: RegistryError) -> Where:
    return Where(name=name, code=problem.code, problem=str(problem))
