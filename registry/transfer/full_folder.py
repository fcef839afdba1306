"""The folder in which what is published of a full model is made, before it is published as any other.

Needs neither torch nor a database: what makes the adapter is passed in.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from registry.folders.errors import telling_unwritable
from registry.folders.hub.repository import names_a_hub
from registry.folders.staging import temporary_folder
from registry.operations.publication import FullModel, Publication
from registry.progress import Progress
from registry.schemas import LeftOut
from registry.schemas.artifacts import Extraction
from registry.transfer.source import given_base


@dataclass(frozen=True)
class MadeOfFull:
    """What was written of a full model."""

    extracted: Extraction | None  # the report of an extraction, if it is one
    left_out: tuple[LeftOut, ...]  # files of the model's folder that are not published


Extract = Callable[[Path, FullModel, Path], MadeOfFull]
"""Writes what is published of a full model into an empty folder: the model's folder, what is asked for, the
empty one."""


@contextmanager
def extracted(publication: Publication, extract: Extract, progress: Progress) -> Iterator[Publication]:
    """The publication of what was made of a full model; its folder lasts as long as the context.

    Raises:
        What ``extract`` and `registry.transfer.source.given_base` raise.
    """
    if publication.full is None:
        raise AssertionError("the folder of an adapter is published as it is")
    place, opened = publication.folder, publication.opened
    if opened is not None and not names_a_hub(place):
        place = opened.one(place, "model")
    given = given_base(place, progress)
    with ExitStack() as stack:
        with telling_unwritable(Path("the folder for temporary files")):
            out = stack.enter_context(temporary_folder("registry-full"))
        made = extract(given.folder, publication.full, out)
        left_out = given.with_left_out(made.left_out)
        yield replace(publication, folder=out, full=None, extracted=made.extracted, left_out=left_out)
