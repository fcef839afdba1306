"""Pictures of what a revision makes: its files ``previews/N``, which pages show and nothing here decodes.

A file is a picture by its first bytes alone, whatever it is called, and is sent with the type that these say; all else
is only downloaded. Pages link to pictures, which browsers load when somebody scrolls to them.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from typing import Final

from fastapi import APIRouter, Response

from registry.digest import StoredFile
from registry.errors import IntegrityError, NotFoundError, RetractedError
from registry.files.source import ByteSource, read_range
from registry.folders.lora_beside import MOST_PICTURE, MOST_PICTURES
from registry.http.bodies import FileBody
from registry.http.dependencies import service_of
from registry.images.pictures import START, picture_kind, texts_of, worded_part
from registry.images.prompts import Made, made_by, made_with
from registry.schemas import Options, RevisionSummary
from registry.services.artifacts.opened import ask
from registry.web.frame.visit import PageRoute, PageVisit, Visit

router = APIRouter(include_in_schema=False, route_class=PageRoute)

TYPES: Final[Mapping[str, str]] = {"png": "image/png", "jpg": "image/jpeg", "webp": "image/webp"}
"""The types that pictures are sent with, by their kinds."""
_POLICY: Final = (
    "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'"
)
"""Nothing but the style that browsers give to a picture that is opened on its own; a picture has none itself."""
_NAME: Final = re.compile(r"previews/([1-9]\d{0,2})\.(?:png|jpg|jpeg|webp)")
_CHUNK: Final = 1 << 20


@dataclass(frozen=True)
class Preview:
    """A picture of a page.

    Args:
        number: of it in its revision.
        href: where it is.
        alt: what it is for somebody who does not see it.
        made: what it was made with, as far as that is said.
    """

    number: int
    href: str
    alt: str
    made: Made


@router.get("/previews/{file}/{reference:path}", response_model=None)
def preview(visit: PageVisit, file: str, reference: str) -> Response:
    """A picture, such as ``/previews/1.png/sdxl/mychar@3``; raises `NotFoundError`, `RetractedError`."""
    found = next((one for one in _files(visit, reference) if one.path == f"previews/{file}"), None)
    if found is None:
        raise NotFoundError(f"There is no preview {file[:64]!r} of {reference[:512]!r}: open the page of the revision.")
    source = visit.registry.deployment.open_blob(found)
    with ExitStack() as refused:
        refused.callback(source.close)
        kind = picture_kind(bytes(read_range(source, 0, min(START, source.size))))
        if kind is None:
            raise NotFoundError(
                f"{found.path} of {reference[:512]} begins like no PNG, JPEG or WebP, so it is not shown as a picture: "
                "download it on the page Files."
            )
        refused.pop_all()
    body = FileBody(
        etag=found.digest.removeprefix("sha256:"),
        size=source.size,
        chunks=lambda start, stop: _chunks(source, start, stop),
        close=source.close,
        kind="blob",
        name=found.path,
        picture=TYPES[kind],
    )
    headers = {"Content-Security-Policy": _POLICY}
    return service_of(visit.request).bodies.answer(visit.request, body, admission="copied", headers=headers)


def _chunks(source: ByteSource, start: int, stop: int) -> Iterator[memoryview]:
    for at in range(start, stop, _CHUNK):
        yield memoryview(read_range(source, at, min(at + _CHUNK, stop)))


def _files(visit: Visit, reference: str) -> list[StoredFile]:
    """The files of a revision that have the name and the size of a preview, by number."""
    path = ask(visit.registry.deployment, reference, Options(kind="published")).path
    found = [(int(name[1]), one) for one in path.tip_files if (name := _NAME.fullmatch(one.path))] if path.links else []
    kept = sorted((number, one.path, one) for number, one in found if one.size <= MOST_PICTURE)
    return [one for _, _, one in kept][:MOST_PICTURES]


def previews_of(visit: Visit, revision: RevisionSummary) -> list[Preview]:
    """The pictures of a revision; of one whose files are not handed out none."""
    try:
        files = _files(visit, revision.reference)
    except RetractedError:
        return []
    pinned, shown = f"{revision.path}@{revision.digest}", []
    for file in files:
        said = _said(visit, file)
        if said is None:
            continue
        name = file.path.rpartition("/")[2]
        number = name.partition(".")[0]
        own = {key: revision.annotations.get(f"preview_{number}_{key}", "") for key in ("prompt", "seed")}
        given = made_with(own["prompt"], own["seed"])
        made = Made(given.prompt or said.prompt, given.seed or said.seed)
        told = ", ".join((made.prompt[:200], f"seed {made.seed}" if made.seed else "")).strip(", ")
        alt = f"Preview {number} of {revision.reference}{': ' if told else ''}{told}"
        shown.append(Preview(int(number), visit.links(f"/previews/{name}/{pinned}"), alt, made))
    return shown


def _said(visit: Visit, file: StoredFile) -> Made | None:
    """What a picture says of itself, kept by the digest of its bytes; None: it is no picture, or damaged."""

    def read() -> Made | None:
        with closing(visit.registry.deployment.open_blob(file)) as source:
            part = worded_part(source)
        return made_by(texts_of(part)) if picture_kind(part[:START]) is not None else None

    try:
        memory = service_of(visit.request).memory
        return memory.get("plan", ("preview", file.digest), read, lambda made: 512 + len(made.prompt if made else ""))
    except IntegrityError:  # the page stands without it; `fsck` names the damage
        return None


Pair = tuple[str, Preview | None, Preview | None]
"""Why two pictures stand side by side, and both; None: that side has none."""


def paired(a: Sequence[Preview], b: Sequence[Preview]) -> list[Pair]:
    """The pictures of two revisions side by side: by prompt and seed where both say them, else by number.

    Two that say both and differ are no pair.
    """
    found: list[Pair] = []
    left, rest = list(a), list(b)
    for one in a:
        other = next((other for other in rest if one.made.is_whole and other.made == one.made), None)
        if other is not None:
            found.append(("Same prompt and seed", one, other))
            left.remove(one)
            rest.remove(other)
    for one in left:
        other = next((other for other in rest if other.number == one.number), None)
        if other is not None and one.made.is_whole and other.made.is_whole:
            other = None
        if other is not None:
            rest.remove(other)
        found.append((f"Number {one.number}", one, other))
    return [*found, *((f"Number {one.number}", None, one) for one in rest)]
