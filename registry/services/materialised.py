"""Artifacts that are kept in the store: found for what is asked, and opened like any other artifact.

One that was made by other arithmetic than this machine's is as good as its own, and goes before it: so all replicas
hand out the same bytes of what is materialised, whatever processors they run on.
"""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass

from sqlalchemy.orm import Session

from registry.catalogue import materialisations as rows
from registry.catalogue.materialisations import MaterialisationRow
from registry.errors import IntegrityError
from registry.schemas import Options
from registry.services.artifacts import is_weights, make_plan
from registry.services.deployment import path_files
from registry.services.lineage import Blobs, LoadedPath, PathFile
from registry.tensors.artifacts.artifact import Artifact, source_file
from registry.tensors.artifacts.plan import ARTIFACT_FORMAT, Plan
from registry.tensors.files.header import read_header


@dataclass(frozen=True)
class Kept:
    """A materialisation that is not past its time: which bytes it names, and where they are."""

    id: str
    rendering: str
    numerics: str | None  # of whoever made it, which may be another machine than this
    notices: tuple[str, ...]
    files: tuple[PathFile, ...]  # by path


def kept_for(session: Session, path: LoadedPath, options: Options) -> Kept | None:
    """What is materialised of a path as it is asked for, in the format of this program; None where nothing is.

    A revision may have others: of other formats of artifacts, or of other plans (its base model's table was made anew).
    """
    plan = plain_plan(path, options)
    if plan is None:
        return None
    tip = path.links[-1]
    row = rows.of_plan(session, tip.path, tip.number, plan.digest, ARTIFACT_FORMAT)
    return None if row is None else _kept(row)


def plain_plan(path: LoadedPath, options: Options) -> Plan | None:
    """The plan of a path that can be materialised; None where other options are given, or bytes are stored anyway."""
    if options.kind == "published" or not path.links or options != Options(kind=options.kind):
        return None
    return make_plan(path, path.links, None, options)


def open_kept(blobs: Blobs, plan: Plan, kept: Kept) -> Artifact:
    """The artifact, read from its blobs."""
    with ExitStack() as opened:
        files = []
        for file in kept.files:
            source = blobs.open_blob(file.place)
            opened.callback(source.close)
            header = read_header(source, what=file.path, error=IntegrityError) if is_weights(file.path) else None
            files.append(source_file(file.path, source, header, file.place.digest))
        release = opened.pop_all().close
        artifact = Artifact(plan, files, notices=kept.notices, numerics=kept.numerics, release=release)
        if artifact.rendering != kept.rendering:
            artifact.close()
            raise IntegrityError(
                f"The materialisation {kept.id} is noted as {kept.rendering}, but its plan and arithmetic make "
                f"{artifact.rendering}: drop it with `registry materialise --drop {kept.id}`."
            )
        return artifact


def _kept(row: MaterialisationRow) -> Kept:
    return Kept(
        id=row.id,
        rendering=row.rendering,
        numerics=row.numerics,
        notices=row.notices,
        files=path_files(row.files),
    )
