"""One commit of a push: both files of an adapter become a revision; what comes alone waits for the other.

A half is never completed by the other half of an older revision: a client may send a changed configuration and the
weights that belong to it in two commits, and a state between them was never trained.

The card of a push that brings no new revision: a README.md alone, or with weights that are published already.

Whether an adapter has the pushed files already: clients send a commit again when its answer was lost, and trainers
push the last state again at the end of training.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, Final

from sqlalchemy.orm import Session

from registry.catalogue.changes import details as annotation_rows
from registry.catalogue.changes.details import set_card
from registry.catalogue.store import blobs as blob_rows
from registry.catalogue.store import uploads
from registry.catalogue.store.uploads import PushedRow
from registry.catalogue.tree import cards, revisions
from registry.errors import (
    ConflictError,
    InvalidAdapterError,
    NotFoundError,
    RetractedError,
    UnavailableError,
    UsageError,
)
from registry.folders.quantised import Sign, sign_in_name, sign_in_text
from registry.folders.scan import ADAPTER_CONFIG, ADAPTER_WEIGHTS, README
from registry.operations.publication import Labels
from registry.progress import SILENT
from registry.reference import Path, Reference
from registry.schemas import Published
from registry.schemas.transfer import FileClaim
from registry.schemas.usage import NOTHING, Loads
from registry.services.artifacts.readme import front_matter
from registry.services.deployment import Deployment
from registry.services.importing.trainer_notes import Notes, notes_in
from registry.services.intake.intake import BytesGoneError
from registry.services.intake.uploads import drop_taken
from registry.services.publishing.candidates import check_draft
from registry.services.publishing.draft import Draft, Said
from registry.services.publishing.lookup import Claims
from registry.services.publishing.publish import publish_draft
from registry.services.pushing.parts import Part, Parts, Sent, bringing, part_of, part_of_row, to_wait
from registry.services.pushing.repo import PAIR, STATE, TAKEN, check_size
from registry.transfer.publish_request import Head
from registry.transfer.trained_on import trained_on

_MOST: Final = 8
"""The most revisions of the same files that are examined: each is on another parent, or has another README.md."""


@dataclass(frozen=True)
class Same:
    """A revision with the same configuration and weights."""

    parent: str  # reference, or the name of the base model
    claims: Claims


def same_files(session: Session, path: Path, config: str, weights: str) -> tuple[Same, ...]:
    """The revisions of an adapter with these two files, by digest; newest first."""
    found = revisions.with_files(session, path, {ADAPTER_CONFIG: config, ADAPTER_WEIGHTS: weights}, limit=_MOST)
    return tuple(_same(session, path, key) for key in found)


def _same(session: Session, path: Path, key: int) -> Same:
    lineage = revisions.lineage(session, key)
    files = revisions.files(session, key)
    claims = {file.path: FileClaim(path=file.path, size=file.size, digest=file.digest) for file in files}
    return Same(lineage[-2].reference if len(lineage) > 1 else path.base, Claims(claims))


def existing(deployment: Deployment, draft: Draft, found: tuple[Same, ...]) -> Iterator[tuple[Draft, Claims]]:
    """Those that a draft is, with what is known of its parent: on another one, it is another revision."""
    for one in found:
        said = draft.said if draft.said.parent is not None else Said(one.parent, draft.said.receipt)
        same = replace(draft, said=said)
        try:
            candidate = check_draft(deployment, same, one.claims)
        except (ConflictError, RetractedError):
            continue
        if candidate.found.existing is not None:
            yield same, one.claims


def keep_card(deployment: Deployment, path: Path, text: str) -> bool:
    """Make a README.md the card of an adapter, unless somebody else has edited the card; whether it is now."""
    if not text.strip():
        return True
    me, metadata = deployment.principal, front_matter.split(text)[0]

    def work(session: Session) -> bool:
        state = cards.state(session, revisions.adapter(session, path))
        if state is not None and state.source == "edited" and state.edited_by != me.name:
            return False
        set_card(session, path, text, metadata, me)
        return True

    return deployment.change(work)


MOST_WAITING: Final = 16 << 30
"""Bytes of a token's pushes that wait for their other halves."""

_OTHERS: Final = 10.0
"""Seconds in which another push that took the same bytes is waited for: it only has its transaction before it."""
_LOOK: Final = 0.1  # seconds between checks whether it exists
_PARENT: Final = re.compile(r"^Parent:[ \t]+(\S{1,512})[ \t]*$", re.MULTILINE)
_FOR_GOOD: Final = (InvalidAdapterError, ConflictError, UsageError, RetractedError, NotFoundError)
_HOW_TO_SAY: Final = (
    "In a push, name it by a line 'Parent: PATH@N' in the description of the commit, or train with "
    "get_peft_model(model, config, revision='rN')."
)


@dataclass(frozen=True)
class Push:
    """A commit: its message, and the files that it brings."""

    path: Path
    message: str
    parent: str | None  # a reference, if its description names one
    files: Mapping[str, Sent]
    after: int | None = None  # number of the newest revision that it is based on, 0: none; None: it names none


@dataclass(frozen=True)
class Taken:
    """What became of a commit."""

    published: Published | None = None
    waiting: tuple[str, ...] = ()  # names of files that wait for others
    card_kept: bool = False  # somebody edited the card, which stays as it is


def parent_in(summary: str, description: str) -> tuple[str, str | None]:
    """The message of a commit, and the parent that a line of its description names."""
    named = _PARENT.search(description)
    rest = _PARENT.sub("", description, count=1).strip()
    return f"{summary}\n\n{rest}".strip(), None if named is None else named[1]


def take_push(deployment: Deployment, push: Push) -> Taken:
    """Publish what is complete, store what is not; nothing is stored of what can't be published.

    Raises:
        UnavailableError: ``too_large``.
        What `registry.services.publishing.publish.publish_draft` raises.
    """
    sent = {name: file for name, file in push.files.items() if name in TAKEN}
    for name, file in sent.items():
        check_size(name, file.size)
    if not sent:
        return Taken()
    with deployment.read() as session:
        waiting = uploads.pushed_of(session, push.path, deployment.principal)
        there = revisions.is_there(session, push.path)
    parts = {name: part_of(deployment, name, file) for name, file in sent.items()}
    if there and not any(name in PAIR for name in sent):
        return _said(deployment, push.path, parts)
    if not all(name in sent for name in PAIR):
        waiting = _wait(deployment, push.path, parts)
    parts = {name: part_of_row(row) for name, row in waiting.items() if name in TAKEN} | parts
    if not all(name in parts for name in PAIR):
        return Taken(waiting=tuple(sorted(parts)))
    with _dropped_when_refused(deployment, push.path, parts, waiting):
        try:
            taken = _published(deployment, push, parts)
        except UnavailableError as error:
            if not (isinstance(error, BytesGoneError) or error.code == "upload_incomplete"):
                raise
            taken = _published(deployment, push, _taken_meanwhile(deployment, parts, error))
    _forget(deployment, push.path, parts, waiting)
    return taken


def _wait(deployment: Deployment, path: Path, parts: Parts) -> dict[str, PushedRow]:
    """Store what was sent; returns all that waits now. Of two halves that come at once, the later one finds both.

    Raises:
        UnavailableError: ``too_large``, too much of this principal waits already.
    """
    with deployment.read() as session:
        waiting = uploads.waiting_bytes(session, deployment.principal, but=path)
    if waiting + sum(part.size for part in parts.values()) > MOST_WAITING:
        raise UnavailableError(
            f"Files of {waiting} bytes that this token pushed wait for others, and at most {MOST_WAITING} may: push "
            f"{' and '.join(PAIR)} in one commit, or wait until the others are dropped, a day after they came.",
            code="too_large",
        )
    rows = [to_wait(deployment, name, part) for name, part in parts.items()]

    def work(session: Session) -> dict[str, PushedRow]:
        uploads.hold_pushed(session, path, deployment.principal)
        uploads.put_pushed(session, path, deployment.principal, rows)
        return uploads.pushed_of(session, path, deployment.principal)

    return deployment.change(work)


def _taken_meanwhile(deployment: Deployment, parts: Parts, error: UnavailableError) -> Parts:
    """The parts, if another push of the same bytes by the same token took their upload and stores them now.

    Raises:
        UnavailableError: ``error``, if nothing is stored in the end: the store has lost the bytes.
    """
    deadline = time.monotonic() + _OTHERS
    digests = {part.digest for part in parts.values() if part.upload is not None}
    while True:
        with deployment.read() as session:
            recorded = blob_rows.rows(session, digests)
            stored = {one: recorded[one] for one in blob_rows.visible(session, recorded.keys())}
        if stored.keys() == digests:
            return {
                name: part if part.upload is None else replace(part, upload=None, stored=stored[part.digest])
                for name, part in parts.items()
            }
        if time.monotonic() > deadline:
            raise error
        time.sleep(_LOOK)


def _published(deployment: Deployment, push: Push, parts: Parts) -> Taken:
    config, weights = parts[ADAPTER_CONFIG], parts[ADAPTER_WEIGHTS]
    notes = _notes(parts)
    with deployment.read() as session:
        found = same_files(session, push.path, config.digest, weights.digest)
    sign = _sign(config.data, parts)
    draft = Draft(
        push.path,
        Said(push.parent, loaded=_loaded(deployment, push.path.parent)),
        Labels.checked(push.message, notes.metrics, (), notes.annotations),
        config.data,
        Head(ADAPTER_WEIGHTS, weights.data, weights.size, InvalidAdapterError),
        quantised=None if sign is None else sign.words,
        trained_quantised=None if sign is None else sign.how,
        after=push.after,
    )
    for same, claims in existing(deployment, draft, found):
        published = publish_draft(deployment, same, claims, SILENT)
        kept = README in parts and not keep_card(deployment, push.path, _text(parts[README]))
        return Taken(published, card_kept=kept)
    return Taken(publish_draft(deployment, draft, bringing(parts), SILENT))


def _said(deployment: Deployment, path: Path, parts: Parts) -> Taken:
    """What is added to the newest revision: its metrics, and the card of its adapter."""
    notes = _notes(parts)

    def work(session: Session) -> None:
        row = revisions.find(session, Reference(path))
        annotation_rows.annotate(
            session, row.id, metrics=notes.metrics, annotations=notes.annotations, principal=deployment.principal
        )

    if notes.metrics or notes.annotations:
        deployment.change(work)
    return Taken(card_kept=README in parts and not keep_card(deployment, path, _text(parts[README])))


def _notes(parts: Parts) -> Notes:
    state = _document(parts[STATE].data) if STATE in parts else {}
    return notes_in(_text(parts[README]) if README in parts else "", state)


def _document(data: bytes) -> dict[str, Any]:
    try:
        found = json.loads(data)
    except (ValueError, RecursionError):  # of a file that only holds metrics
        return {}
    return found if isinstance(found, dict) else {}


def _loaded(deployment: Deployment, above: Path | None) -> Loads:
    """What the principal has loaded lately of the adapter above; nothing of a base model."""
    if above is None or above.is_base or deployment.uses is None:
        return NOTHING
    return deployment.uses.loads.of(above, deployment.principal, deployment.rights)


def _sign(config: bytes, parts: Parts) -> Sign | None:
    """What shows that it was trained on quantised weights."""
    name = trained_on(config)
    found = sign_in_text(README, _text(parts[README]), name) if README in parts else None
    return found or sign_in_name(name)


def _text(part: Part) -> str:
    return part.data.decode("utf-8", "replace").replace("\0", "\ufffd")


def _forget(deployment: Deployment, path: Path, parts: Parts, waiting: Mapping[str, PushedRow]) -> None:
    """Nothing of a push waits any more: it was published, or can't be. What came for the next one meanwhile stays."""
    me = deployment.principal

    def work(session: Session) -> dict[str, PushedRow]:
        uploads.hold_pushed(session, path, me)
        there = uploads.pushed_of(session, path, me)
        found = {name: row for name, row in there.items() if name in waiting and row.until == waiting[name].until}
        left = there.keys() - found.keys() - {uploads.REPO}
        uploads.remove_pushed(session, path, me, found if left else None)
        return found

    taken = [row.upload for row in deployment.change(work).values()] + [part.upload for part in parts.values()]
    drop_taken(deployment, {one.digest: one.id for one in taken if one is not None})


@contextmanager
def _dropped_when_refused(
    deployment: Deployment, path: Path, parts: Parts, waiting: Mapping[str, PushedRow]
) -> Iterator[None]:
    """Nothing is stored that no retry could publish; for an unknown parent, the error says how to name it."""
    try:
        yield
    except _FOR_GOOD as error:
        _forget(deployment, path, parts, waiting)
        if error.code == "parent_ambiguous":
            raise UsageError(f"{error} {_HOW_TO_SAY}", code=error.code) from None
        raise
