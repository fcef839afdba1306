"""Materialised artifacts: found by plan, and opened like any other artifact.

A materialisation takes precedence even if another arithmetic than this machine's made it. So all replicas serve the
same bytes of a materialised artifact, whatever processors they run on.
"""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass

from sqlalchemy.orm import Session

from registry.catalogue.store import materialisations as rows
from registry.digest import StoredFile
from registry.errors import IntegrityError
from registry.schemas import Fidelity, Options
from registry.schemas.artifacts import KINDS
from registry.services.artifacts.inputs import stored_files
from registry.services.artifacts.plan import make_plan
from registry.services.lineage import Blobs, LoadedPath
from registry.tensors.artifacts.artifact import Artifact, Measured
from registry.tensors.artifacts.plan import ARTIFACT_FORMAT, Plan


@dataclass(frozen=True)
class Kept:
    """A materialisation that has not expired, and its files."""

    id: str
    plan: Plan
    rendering: str
    numerics: str | None  # fingerprint of the machine that made it
    notices: tuple[str, ...]
    files: tuple[StoredFile, ...]  # by path


def kept_for(session: Session, path: LoadedPath, plan: Plan | None) -> Kept | None:
    """The materialisation of a path by its plain plan and this version's `ARTIFACT_FORMAT`; None if there is none.

    A revision may have others: with other artifact formats, or other plans (its base model's table was remade).
    """
    if plan is None:
        return None
    tip = path.links[-1]
    row = rows.of_plan(session, tip.path, tip.number, plan.digest, ARTIFACT_FORMAT)
    return None if row is None else Kept(row.id, plan, row.rendering, row.numerics, row.notices, row.files)


def plain_plan(path: LoadedPath, options: Options) -> Plan | None:
    """The plan under which a path can be materialised; None with other options, or if its bytes are stored anyway."""
    if KINDS[options.kind].is_verbatim or not path.links or options != Options(kind=options.kind):
        return None
    return make_plan(path, None, options)


def open_kept(blobs: Blobs, kept: Kept, fidelity: Fidelity | None = None) -> Artifact:
    """The artifact, read from the materialisation's blobs, with what was measured when it was made.

    Raises:
        IntegrityError: the recorded rendering is not that of its plan and arithmetic.
    """
    with ExitStack() as opened:
        files = stored_files(blobs, kept.files, opened)
        release = opened.pop_all().close
        artifact = Artifact(
            kept.plan,
            files,
            notices=kept.notices,
            numerics=kept.numerics,
            meter=Measured(fidelity),
            release=release,
        )
        if artifact.rendering != kept.rendering:
            artifact.close()
            raise IntegrityError(
                f"The materialisation {kept.id} is recorded as {kept.rendering}, but its plan and arithmetic give "
                f"{artifact.rendering}: drop it with `registry materialise --drop {kept.id}`."
            )
        return artifact
