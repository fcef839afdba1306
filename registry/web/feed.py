"""What happened at and below a path as an Atom feed: publishes, moves of tags, what was withdrawn and came back.

RFC 4287. A feed is read with the rights of whoever asks for it, as every page. Texts of people are data in it: the
parser's library writes them, and what XML 1.0 forbids, or would rewrite a line, is shown as an escape.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, datetime
from typing import Final
from uuid import NAMESPACE_URL, uuid5
from xml.etree import ElementTree

from fastapi import APIRouter, Response
from sqlalchemy import select, tuple_
from sqlalchemy.orm import Session

from registry.catalogue.database import events
from registry.catalogue.database.events import EventFilter
from registry.catalogue.database.tables import Adapter, Revision
from registry.catalogue.tree import browse
from registry.figures import clean
from registry.http.conditional import has
from registry.reference import Path
from registry.schemas import Event
from registry.schemas.team import EventKind
from registry.web.frame.visit import HEADERS, Links, PageRoute, PageVisit, Visit

router = APIRouter(include_in_schema=False, route_class=PageRoute)
KINDS: Final[tuple[EventKind, ...]] = (
    "publish", "tag", "untag", "retract", "retract undo", "delete", "delete undo",
)  # fmt: skip
LISTED: Final = 50
_LONGEST: Final = 2000  # characters of a message
_ATOM: Final = "http://www.w3.org/2005/Atom"
_NOTHING_YET: Final = datetime(1970, 1, 1, tzinfo=UTC)
_VERBS: Final[Mapping[str, str]] = {
    "publish": "published",
    "retract": "retracted",
    "retract undo": "undid the retraction of",
    "delete": "deleted",
    "delete undo": "restored",
}


@router.get("/feed", response_model=None)
def feed_of_all(visit: PageVisit) -> Response:
    """What happened at everything that the visitor sees."""
    return _feed(visit, None)


@router.get("/feed/{path:path}", response_model=None)
def feed_below(visit: PageVisit, path: str) -> Response:
    """What happened at and below a path; raises `NotFoundError`."""
    return _feed(visit, Path.parse(path))


def _feed(visit: Visit, path: Path | None) -> Response:
    with visit.registry.deployment.read() as session:
        found = events.recent(session, LISTED, EventFilter(path, kinds=KINDS))
        if path is not None and not found:
            browse.check_there(session, path)
        messages = _messages(session, found)
    text = atom(visit.address, path, found, messages)
    etag = hashlib.sha256(text).hexdigest()[:32]
    headers = {**HEADERS, "ETag": f'"{etag}"'}
    if has(visit.request.headers, etag):
        return Response(status_code=304, headers=headers)
    return Response(text, headers=headers, media_type="application/atom+xml")


def _messages(session: Session, found: Iterable[Event]) -> dict[str, str]:
    """The messages of what was published, by reference, as far as it still exists."""
    published = {one.subject.rpartition("@")[::2] for one in found if one.action == "publish"}
    pairs = [(path, int(number)) for path, number in published if number.isdecimal()]
    query = select(Adapter.path, Revision.number, Revision.message).join(Adapter, Adapter.id == Revision.adapter_id)
    rows = session.execute(query.where(tuple_(Adapter.path, Revision.number).in_(pairs)))
    return {f"{path}@{number}": message for path, number, message in rows}


def atom(address: str, path: Path | None, found: Iterable[Event], messages: Mapping[str, str]) -> bytes:
    """A feed.

    Args:
        address: of the service, as people reach it.
        path: what it is about; None: everything.
        found: newest first.
        messages: of what was published, by reference.
    """
    shown = list(found)
    links, where = Links(""), "" if path is None else f"/{path}"
    top = ElementTree.Element("feed", {"xmlns": _ATOM})
    _text(top, "id", address + links(f"/feed{where}"))
    _text(top, "title", f"Adapter registry: {path or 'everything'}")
    _text(top, "updated", _moment(shown[0].at if shown else _NOTHING_YET))
    _link(top, "self", address + links(f"/feed{where}"))
    _link(top, "alternate", address + (links("/activity") if path is None else links.ref(str(path))))
    for one in shown:
        entry = ElementTree.SubElement(top, "entry")
        same = json.dumps([one.at.isoformat(), one.action, one.subject, one.actor, one.detail], sort_keys=True)
        _text(entry, "id", uuid5(NAMESPACE_URL, same).urn)
        _text(entry, "title", _told(one))
        _text(entry, "updated", _moment(one.at))
        _text(ElementTree.SubElement(entry, "author"), "name", clean(one.actor))
        ElementTree.SubElement(entry, "category", {"term": one.action})
        _link(entry, "alternate", address + links.ref(_named(one)))
        said = messages.get(one.subject, "") if one.action == "publish" else str(one.detail.get("reason") or "")
        if said.strip():
            _text(entry, "summary", "\n".join(map(clean, said.strip()[:_LONGEST].splitlines())))
    written: bytes = ElementTree.tostring(top, encoding="utf-8", xml_declaration=True)
    return written


def _text(within: ElementTree.Element, name: str, text: str) -> None:
    ElementTree.SubElement(within, name).text = text


def _link(within: ElementTree.Element, rel: str, href: str) -> None:
    ElementTree.SubElement(within, "link", {"rel": rel, "href": href})


def _moment(time: datetime) -> str:
    return time.astimezone(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")


def _named(event: Event) -> str:
    """The reference that an event is about: of a tag, what it names since."""
    return f"{event.subject}@{event.detail['tag']}" if event.action == "tag" else event.subject


def _told(event: Event) -> str:
    """An event in a line."""
    who, detail = event.actor, event.detail
    if event.action in {"tag", "untag"}:
        old, new = (_number(detail.get(key)) for key in ("old", "new"))
        tag = f"{event.subject}@{detail.get('tag')}"
        said = f"took away {tag}, which named {old}" if new == "none" else f"moved {tag}: {old} → {new}"
        return clean(f"{who} {said}")
    return clean(" ".join([who, _VERBS[event.action], event.subject, *_tags(detail)]))


def _number(reference: object) -> str:
    return f"@{reference.rpartition('@')[2]}" if isinstance(reference, str) else "none"


def _tags(detail: Mapping[str, object]) -> Iterator[str]:
    """The tags that went or came with a revision."""
    tags = detail.get("tags")
    if isinstance(tags, list | tuple) and tags:
        yield f"({', '.join(map(str, tags[:9]))})"
