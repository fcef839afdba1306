"""The tensors of an artifact, also of one whose files nobody has made, and a look at one of them."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from contextlib import closing
from typing import Annotated, Any, Final
from urllib.parse import quote

from fastapi import APIRouter, Response
from pydantic import Field

from registry.digest import hex_of
from registry.errors import NotFoundError
from registry.files.header import TensorEntry
from registry.folders.scan import EXACT_WEIGHTS
from registry.http.dependencies import service_of
from registry.http.looks import look_at
from registry.schemas import ArtifactKind, Schema
from registry.web.frame.visit import PageRoute, PageVisit
from registry.web.revision.files import KINDS, REFUSALS, about, opened

router = APIRouter(include_in_schema=False, route_class=PageRoute)
_PAGE: Final = 100
_NAMES: Final = 12_000  # characters of names in a page: each may have 1024
_Place = tuple[str, TensorEntry]  # in which file


class _Asked(Schema):
    kind: ArtifactKind = "published"
    file: str | None = None
    tensor: str | None = None
    text: str | None = None
    start: Annotated[int, Field(ge=0)] = 0


@router.get("/tensors/{reference:path}", response_model=None)
def tensors_page(visit: PageVisit, reference: str) -> Response:
    """The tensors of an artifact, or one of them with figures of its values."""
    asked, values = visit.asked(_Asked), about(visit, reference)
    ref, values = values["reference"], {**values, "asked": asked, "label": KINDS[asked.kind][0], "refusal": None}
    template, title = "tensors.html", f"Tensors of {values['reference']}"
    try:
        handle = opened(visit, ref, asked.kind)
    except REFUSALS as error:
        return visit.page(template, title=title, **{**values, "refusal": error})
    with closing(handle):
        headers = {name: file.header for name, file in handle.artifact.files.items() if asked.file in (None, name)}
        places = [(name, entry) for name, header in headers.items() if header for entry in header.entries.values()]
        if asked.tensor is None:
            differences = EXACT_WEIGHTS in handle.artifact.files
            return visit.page(template, title=title, **values, **_some(places, asked), differences=differences)
        file, entry = next((one for one in places if one[1].name == asked.tensor), (None, None))
        if file is None or entry is None:
            raise NotFoundError(f"{ref} as {asked.kind} has no tensor {asked.tensor[:256]!r}.")
        look = look_at(service_of(visit.request), handle, file, entry)
        address = f"/artifacts/{hex_of(handle.artifact.rendering)}/{quote(file)}"
    options = f"-fL -H 'Range: bytes={entry.start}-{look.stop - 1}' -o tensor.bin"
    line = visit.api(address, options=options, ref=ref, kind=asked.kind) if look.sampled else None
    return visit.page("tensor.html", title=entry.name, **values, file=file, entry=entry, look=look, line=line)


def _some(places: Sequence[_Place], asked: _Asked) -> dict[str, Any]:
    """Some tensors, of those whose names have a text, and where the next begin."""
    found = [one for one in places if asked.text is None or asked.text in one[1].name]
    shown = found[asked.start : asked.start + _PAGE]
    lengths = itertools.accumulate(len(entry.name) for _, entry in shown)
    shown = shown[: max(1, sum(length <= _NAMES for length in lengths))]
    after = asked.start + len(shown)
    return {
        "places": shown,
        "found": len(found),
        "all": len(places),
        "elements": sum(entry.elements for _, entry in found),
        "size": sum(entry.stop - entry.start for _, entry in found),
        "after": after if after < len(found) else None,
    }
