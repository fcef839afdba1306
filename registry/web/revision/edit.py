"""Changing the labels of a revision: tags, message, metrics, annotations, card, and whether it is retracted."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, Literal

from fastapi import APIRouter, Response
from markupsafe import escape

from registry.catalogue.changes import tagging
from registry.catalogue.changes.tagging import NO_REVISION
from registry.catalogue.tree import tag_moves
from registry.errors import ConflictError, NotFoundError, RegistryError, UsageError
from registry.http.errors import problem as told
from registry.operations import table
from registry.reference import Path, Reference
from registry.schemas import Schema, requests
from registry.schemas.labels import SetCardRequest
from registry.web.frame.forms import REFUSED
from registry.web.frame.visit import FormVisit, PageRoute, PageVisit, PostedForm, Visit
from registry.web.revision.subject import Subject, subject_of
from registry.web.tags import tags_page

router = APIRouter(include_in_schema=False, route_class=PageRoute)
_LONGEST: Final = 80_000  # bytes of a card in HTML that a page carries


class _Tag(Schema):
    """A tag, what the page showed that it names, and what it is to name then."""

    do: Literal["move", "undo", "remove"]
    tag: str
    expected: str = NO_REVISION
    wanted: str = NO_REVISION
    to: Literal["edit", "tags"] = "edit"
    """The page that shows it afterwards."""


class _Said(Schema):
    """A metric or an annotation; without a name it is the message, which may be empty."""

    name: str | None = None
    metric: float | None = None
    annotation: str | None = None
    message: str = ""
    remove: bool = False


class _Card(Schema):
    """A new text instead of the one with this digest, or the published one again."""

    text: str = ""
    expected: str
    published: bool = False


class _Retraction(Schema):
    reason: str = ""
    undo: bool = False


def writable(visit: Visit, reference: str) -> Subject:
    """The revision of a reference, for who may write to it; raises `NotFoundError`, `NotAllowedError`."""
    subject = subject_of(visit, reference)
    table.ANNOTATE.right.require(visit.registry.deployment.rights, requests.AnnotateRequest(ref=reference))
    return subject


@router.get("/edit/{reference:path}", response_model=None)
def edit(visit: PageVisit, reference: str) -> Response:
    """What can be changed about a revision."""
    return edit_page(visit, reference)


def edit_page(
    visit: Visit, reference: str, problem: RegistryError | None = None, sent: Sequence[tuple[str, str]] = ()
) -> Response:
    """The page with the forms; after a refusal with the reason, and what was written into them."""
    subject = writable(visit, reference)
    path = Path.parse(subject.revision.path)
    with visit.registry.deployment.read() as session:
        tags = tag_moves.of_adapter(session, path)
        guarded = tagging.protected(session, path.base, [one.tag for one in tags])
    return visit.page(
        "edit.html",
        title=f"Edit {subject.reference}",
        api=visit.api("/revisions", ref=subject.reference),
        status=200 if problem is None else told(problem).status,
        subject=subject,
        part="edit",
        problem=problem,
        sent=dict(sent),
        tags=tags,
        guarded=() if visit.principal.rights.role == "admin" else guarded,
    )


@router.post("/tag/{reference:path}", response_model=None)
def tag(visit: FormVisit, form: PostedForm, reference: str) -> Response:
    """Change a tag of the adapter, if it still names what the page showed."""
    path = Reference.parse(reference).path
    try:
        given = form.read(_Tag)
    except UsageError as problem:
        return edit_page(visit, reference, problem, form.fields)
    held = {"tag": given.tag, "expected": given.expected}
    try:
        if given.do == "move":
            visit.ask(table.TAG, requests.TagRequest(ref=reference, **held))
        elif given.do == "undo":
            visit.ask(table.UNDO_TAG, requests.UndoTagRequest(path=str(path), **held))
        else:
            visit.ask(table.UNTAG, requests.UntagRequest(path=str(path), **held))
    except UsageError as error:
        return edit_page(visit, reference, error, form.fields)
    except (ConflictError, NotFoundError) as error:
        with visit.registry.deployment.read() as session:
            now = {one.tag: one.points_at for one in tag_moves.of_adapter(session, path)}.get(given.tag)
        if (now or NO_REVISION) != given.wanted:  # otherwise the form was sent twice
            if isinstance(error, ConflictError):
                if given.to == "tags":
                    return tags_page(visit, str(path), error)
                return edit_page(visit, reference, error, form.fields)
            raise
    return visit.go(
        visit.links.of("tags", str(path)) if given.to == "tags" else f"{visit.links.of('edit', reference)}#tags"
    )


@router.post("/annotate/{reference:path}", response_model=None)
def annotate(visit: FormVisit, form: PostedForm, reference: str) -> Response:
    """Replace the message, or set or remove a metric or an annotation."""
    twice = ("remove", "1") in form.fields  # of what is removed already, the form was sent twice
    try:
        visit.ask(table.ANNOTATE, _annotation(reference, form.read(_Said)))
    except NotFoundError:
        if not twice:
            raise
    except REFUSED as problem:
        return edit_page(visit, reference, problem, form.fields)
    return visit.go(visit.links.of("edit", reference))


def _annotation(reference: str, given: _Said) -> requests.AnnotateRequest:
    name = given.name
    if name is None:
        return requests.AnnotateRequest(ref=reference, message=given.message.replace("\r\n", "\n"))
    if given.remove:
        return requests.AnnotateRequest(ref=reference, unset=(name,))
    metrics = {} if given.metric is None else {name: given.metric}
    annotations = {} if given.annotation is None else {name: given.annotation}
    return requests.AnnotateRequest(ref=reference, metrics=metrics, annotations=annotations)


@router.get("/card/{path:path}", response_model=None)
def card(visit: PageVisit, path: str) -> Response:
    """The form with the card."""
    return _card_page(visit, path)


def _card_page(visit: Visit, path: str, mine: str | None = None, problem: RegistryError | None = None) -> Response:
    writable(visit, path)
    now = visit.ask(table.CARD, requests.ReferenceRequest(ref=str(Path.parse(path))))
    return visit.page(
        "edit_card.html",
        title=f"Card of {path}",
        api=visit.api("/cards", ref=path),
        status=200 if problem is None else told(problem).status,
        card=now,
        text=now.text if mine is None else mine,
        problem=problem,
        is_conflict=isinstance(problem, ConflictError),
        fits=len(escape(now.text).encode()) <= _LONGEST,
    )


@router.post("/card/{path:path}", response_model=None)
def set_card(visit: FormVisit, form: PostedForm, path: str) -> Response:
    """Replace the card, if it is still the one that the page showed."""
    given = form.read(_Card)
    text = None if given.published else given.text.replace("\r\n", "\n")
    try:
        visit.ask(table.SET_CARD, SetCardRequest(path=path, text=text, expected=given.expected))
    except ConflictError as error:
        now = visit.ask(table.CARD, requests.ReferenceRequest(ref=path))
        again = now.state is not None and now.state.source == "published" if given.published else now.text == text
        if not again:
            return _card_page(visit, path, given.text, error)
    except UsageError as error:
        return _card_page(visit, path, given.text, error)
    return visit.go(visit.links.ref(path))


@router.get("/retract/{reference:path}", response_model=None)
def retraction(visit: PageVisit, reference: str) -> Response:
    """What a retraction would make unavailable."""
    return _retraction_page(visit, reference)


def _retraction_page(visit: Visit, reference: str, problem: RegistryError | None = None, reason: str = "") -> Response:
    subject = writable(visit, reference)
    listed = visit.ask(table.RETRACT, requests.RetractRequest(ref=subject.reference, dry_run=True))
    return visit.page(
        "retract.html",
        title=f"Retraction of {subject.reference}",
        status=200 if problem is None else told(problem).status,
        subject=subject,
        part="retract",
        listed=listed,
        problem=problem,
        reason=reason,
    )


@router.post("/retract/{reference:path}", response_model=None)
def retract(visit: FormVisit, form: PostedForm, reference: str) -> Response:
    """Retract, or undo that."""
    given = form.read(_Retraction)
    reason = "" if given.undo else given.reason
    try:
        visit.ask(table.RETRACT, requests.RetractRequest(ref=reference, reason=reason, undo=given.undo))
    except (ConflictError, UsageError) as problem:
        return _retraction_page(visit, reference, problem, reason)
    return visit.go(visit.links.ref(reference))
