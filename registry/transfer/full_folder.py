"""The folder in which what is published of a full model is made, before it is published as any other.

Needs neither torch nor a database: what makes the adapter is passed in.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

from registry.folders.errors import telling_unwritable
from registry.operations.publication import FullModel, Publication
from registry.progress import Progress
from registry.schemas.artifacts import Extraction
from registry.transfer.source import given_base

Extract = Callable[[Path, FullModel, Path], Extraction | None]
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
    given = given_base(publication.folder, progress)
    with telling_unwritable(Path("the folder for temporary files")):
        room = TemporaryDirectory(prefix="registry-full-")
    with room as place:
        out = Path(place) / "adapter"
        out.mkdir()
        report = extract(given.folder, publication.full, out)
        yield replace(publication, folder=out, full=None, extracted=report)
