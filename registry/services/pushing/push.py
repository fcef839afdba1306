"""One commit of a push: both files of an adapter become a revision; what comes alone waits for the other.

A half is never completed by the other half of an older revision: a client may send a changed configuration and the
weights that belong to it in two commits, and what lies between them was never trained.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path as FilePath
from typing import Any, Final

from sqlalchemy.orm import Session

from registry.catalogue.changes import annotations as annotation_rows
from registry.catalogue.store import pushed_files
from registry.catalogue.store import uploads as upload_rows
from registry.catalogue.store.pushed_files import PushedRow
from registry.catalogue.store.uploads import UploadRow
from registry.catalogue.tree import revisions
from registry.digest import sha256_digest
from registry.errors import ConflictError, InvalidAdapterError, NotFoundError, RetractedError, UsageError
from registry.files.source import FileSource
from registry.folders.contents import head_of
from registry.folders.scan import ADAPTER_CONFIG, ADAPTER_WEIGHTS, README
from registry.operations.publication import Labels
from registry.progress import SILENT
from registry.reference import Path, Reference
from registry.schemas import Published
from registry.services.deployment import Deployment
from registry.services.importing.trainer_notes import Notes, notes_in
from registry.services.intake.intake import Intake
from registry.services.intake.uploads import upload
from registry.services.intake.wanted import Wanted, drop_taken, take
from registry.services.publishing.candidates import Candidate
from registry.services.publishing.draft import Draft, Said
from registry.services.publishing.manifests import Files
from registry.services.publishing.publish import publish_claimed, publish_made
from registry.services.pushing.card import keep_card
from registry.services.pushing.chosen import PAIR, STATE, TAKEN, check_size
from registry.services.pushing.loaded import loaded_by
from registry.services.pushing.same import existing, same_files
from registry.tensors.elements.passing import Watch
from registry.transfer.claims import Head

_PARENT: Final = re.compile(r"^Parent:[ \t]+(\S{1,512})[ \t]*$", re.MULTILINE)
_FOR_GOOD: Final = (InvalidAdapterError, ConflictError, UsageError, RetractedError, NotFoundError)
_HOW_TO_SAY: Final = (
    "In a push, name it by a line 'Parent: PATH@N' in the description of the commit, or train with "
    "get_peft_model(model, config, revision='rN')."
)


@dataclass(frozen=True)
class Spooled:
    """The bytes of a file that a client sent."""

    file: FilePath
    size: int
    digest: str


@dataclass(frozen=True)
class Push:
    """A commit: what is said in it, and the files that it brings."""

    path: Path
    message: str
    parent: str | None  # a reference, where its description names one
    files: Mapping[str, Spooled]


@dataclass(frozen=True)
class Taken:
    """What became of a commit."""

    published: Published | None = None
    waiting: tuple[str, ...] = ()  # names of files that wait for others
    card_kept: bool = False  # somebody edited the card, which stays as it is


@dataclass(frozen=True)
class _Part:
    """A file of the next revision: ``data`` is all of a document, and the header of weights."""

    data: bytes
    size: int
    digest: str
    file: FilePath | None = None
    upload: UploadRow | None = None


_Parts = Mapping[str, _Part]


def parent_in(summary: str, description: str) -> tuple[str, str | None]:
    """The message of a commit, and the parent that a line of its description names."""
    named = _PARENT.search(description)
    rest = _PARENT.sub("", description, count=1).strip()
    return f"{summary}\n\n{rest}".strip(), None if named is None else named[1]


def take_push(deployment: Deployment, push: Push) -> Taken:
    """Publish what is complete, keep what is not; nothing is kept of what can't be published.

    Raises:
        UnavailableError: ``too_large``.
        What `registry.services.publishing.publish.publish` raises.
    """
    sent = {name: file for name, file in push.files.items() if name in TAKEN}
    for name, file in sent.items():
        check_size(name, file.size)
    if not sent:
        return Taken()
    with deployment.read() as session:
        waiting = pushed_files.of(session, push.path, deployment.principal)
        there = revisions.is_there(session, push.path)
    if there and not any(name in PAIR for name in sent):
        return _said(deployment, push.path, {name: _spooled(name, file) for name, file in sent.items()})
    parts = {name: _kept(row) for name, row in waiting.items() if name in TAKEN}
    if not all(name in sent for name in PAIR):
        parts = _wait(deployment, push, sent)
    parts |= {name: _spooled(name, file) for name, file in sent.items()}
    if not all(name in parts for name in PAIR):
        return Taken(waiting=tuple(sorted(parts)))
    with _dropped_when_refused(deployment, push.path):
        return _published(deployment, push, parts)


def _spooled(name: str, file: Spooled) -> _Part:
    data = head_of(file.file) if name == ADAPTER_WEIGHTS else file.file.read_bytes()
    return _Part(data, file.size, file.digest, file.file)


def _kept(row: PushedRow) -> _Part:
    digest = sha256_digest(row.data) if row.upload is None else row.upload.digest
    return _Part(row.data, row.size, digest, upload=row.upload)


def _wait(deployment: Deployment, push: Push, sent: Mapping[str, Spooled]) -> dict[str, _Part]:
    """Keep what was sent; everything that waits now. Of two halves that come at once, the later one finds both."""
    rows = [_to_keep(deployment, name, file) for name, file in sent.items()]

    def work(session: Session) -> dict[str, PushedRow]:
        pushed_files.put(session, push.path, deployment.principal, rows)
        return pushed_files.of(session, push.path, deployment.principal)

    return {name: _kept(row) for name, row in deployment.change(work).items() if name in TAKEN}


def _to_keep(deployment: Deployment, name: str, file: Spooled) -> PushedRow:
    part = _spooled(name, file)
    if name != ADAPTER_WEIGHTS:
        return PushedRow(name, part.data, part.size)
    source = FileSource(file.file)
    try:
        upload_id = upload(deployment, file.digest, source, SILENT)
    finally:
        source.close()
    with deployment.read() as session:
        row = upload_rows.get(session, upload_id, deployment.principal)
    return PushedRow(name, part.data, part.size, row)


def _published(deployment: Deployment, push: Push, parts: _Parts) -> Taken:
    config, weights = parts[ADAPTER_CONFIG], parts[ADAPTER_WEIGHTS]
    notes = _notes(parts)
    with deployment.read() as session:
        found = same_files(session, push.path, config.digest, weights.digest)
    draft = Draft(
        push.path,
        Said(push.parent, loaded=loaded_by(deployment, push.path.parent)),
        Labels.checked(push.message, notes.metrics, (), notes.annotations),
        config.data,
        Head(ADAPTER_WEIGHTS, weights.data, weights.size, InvalidAdapterError),
    )
    for same, claims in existing(deployment, draft, found):
        published = publish_claimed(deployment, same, claims, SILENT)
        _forget(deployment, push.path)
        kept = README in parts and not keep_card(deployment, push.path, _text(parts[README]))
        return Taken(published, card_kept=kept)
    published = publish_made(deployment, draft, _bringing(parts), SILENT)
    _forget(deployment, push.path)
    return Taken(published)


def _bringing(parts: _Parts) -> Callable[[Intake, Candidate, Watch], Files]:
    chosen = {name: parts[name] for name in (*PAIR, README) if name in parts}

    def bring(intake: Intake, _candidate: Candidate, watch: Watch) -> Files:
        for name, part in chosen.items():
            watches = watch if name == ADAPTER_WEIGHTS else None
            if part.upload is not None:
                wanted = Wanted({part.digest: part.size}, {part.digest: part.upload}, {}, {})
                take(wanted, intake, {} if watches is None else {part.digest: watches})
            elif part.file is not None:
                intake.file(part.file, watches)
            else:
                intake.made(iter([memoryview(part.data)]))
        return {name: (part.digest, part.size) for name, part in chosen.items()}

    return bring


def _said(deployment: Deployment, path: Path, parts: _Parts) -> Taken:
    """What is said about the newest revision: its metrics, and the card of its adapter."""
    notes = _notes(parts)

    def work(session: Session) -> None:
        row = revisions.find(session, Reference(path))
        annotation_rows.annotate(
            session, row.id, metrics=notes.metrics, annotations=notes.annotations, principal=deployment.principal
        )

    if notes.metrics or notes.annotations:
        deployment.change(work)
    return Taken(card_kept=README in parts and not keep_card(deployment, path, _text(parts[README])))


def _notes(parts: _Parts) -> Notes:
    state = _document(parts[STATE].data) if STATE in parts else {}
    return notes_in(_text(parts[README]) if README in parts else "", state)


def _document(data: bytes) -> dict[str, Any]:
    try:
        found = json.loads(data)
    except (ValueError, RecursionError):  # of a file that only tells metrics
        return {}
    return found if isinstance(found, dict) else {}


def _text(part: _Part) -> str:
    return part.data.decode("utf-8", "replace").replace("\0", "\ufffd")


def _forget(deployment: Deployment, path: Path) -> None:
    """Nothing of a push waits any more: it was published, or can't be."""

    def work(session: Session) -> dict[str, PushedRow]:
        found = pushed_files.of(session, path, deployment.principal)
        pushed_files.remove(session, path, deployment.principal)
        return found

    uploads = (row.upload for row in deployment.change(work).values())
    drop_taken(deployment, {one.digest: one.id for one in uploads if one is not None})


@contextmanager
def _dropped_when_refused(deployment: Deployment, path: Path) -> Iterator[None]:
    """Nothing is kept of what no repetition publishes; of a parent that is not known, the error says how to name it."""
    try:
        yield
    except _FOR_GOOD as error:
        _forget(deployment, path)
        if error.code == "parent_ambiguous":
            raise UsageError(f"{error} {_HOW_TO_SAY}", code=error.code) from None
        raise
