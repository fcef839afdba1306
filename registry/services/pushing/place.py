"""Where a push goes: the path of its repo, and the right to publish there."""

from __future__ import annotations

import hashlib

from sqlalchemy.orm import Session

from registry.catalogue.store import pushed_files
from registry.catalogue.store.pushed_files import PushedRow
from registry.catalogue.tree import bases, old_names, revisions
from registry.digest import sha256_digest
from registry.errors import NotFoundError, RegistryError, UsageError
from registry.reference import Path
from registry.rights import Principal
from registry.services.deployment import Deployment
from registry.services.intake.wanted import drop_taken
from registry.services.publishing.candidates import require_publishing


def place_of(deployment: Deployment, repo_id: str) -> Path:
    """The path that a repo id stands for, where this principal may publish.

    Raises:
        UsageError: the id stands for none, or for a base model.
        NotAllowedError: it may not publish there.
        NotFoundError: what the path lies under does not exist.
        ConflictError: ``renamed``, the path is an old name.
    """
    path = Path.of_repo_id(repo_id)
    if path.is_base:
        raise UsageError(
            f"{repo_id} is the base model {path.base}: a push goes to a repo under it, such as {path.base}/NAME. Base "
            "models are added with `registry base add`."
        )
    require_publishing(deployment, path)
    with deployment.read() as session:
        old_names.check_current(session, path)
        _check_above(session, path)
    return path


def pending_commit(session: Session, principal: Principal, repo_id: str) -> str | None:
    """What stands for the commit of a repo that has no revision yet; None: this principal has begun none there."""
    try:
        path = Path.of_repo_id(repo_id)
    except UsageError:
        return None
    rows = pushed_files.of(session, path, principal)
    said = [f"{name} {sha256_digest(row.data)}" for name, row in sorted(rows.items())]
    return hashlib.sha1("\n".join(said).encode(), usedforsecurity=False).hexdigest() if rows else None


def begin(deployment: Deployment, path: Path) -> bool:
    """Begin a repo that is empty until a revision is published; False: it is there already, with revisions or not."""
    me = deployment.principal

    def work(session: Session) -> bool:
        if revisions.is_there(session, path) or pushed_files.of(session, path, me):
            return False
        pushed_files.put(session, path, me, [PushedRow(pushed_files.REPO, b"", 0)])
        return True

    return deployment.change(work)


def waiting_for(deployment: Deployment, path: Path, *, superseded: tuple[str, ...]) -> frozenset[str]:
    """The names of files that wait at a path, without those that a push which begins now brings anew."""
    me = deployment.principal
    with deployment.read() as session:
        rows = pushed_files.of(session, path, me)
    old = [row for name, row in rows.items() if name in superseded]
    if old:
        deployment.change(lambda session: pushed_files.remove(session, path, me, [row.name for row in old]))
        drop_taken(deployment, {row.upload.digest: row.upload.id for row in old if row.upload is not None})
    return frozenset(rows).difference(superseded, [pushed_files.REPO])


def _check_above(session: Session, path: Path) -> None:
    above = path.parent
    assert above is not None, "a base model was refused before"
    try:
        if above.is_base:
            bases.get(session, above.base)
        else:
            revisions.pinnable(session, path, limit=1)
    except NotFoundError as missing:
        raise _nothing_above(above) from missing


def _nothing_above(above: Path) -> RegistryError:
    how = "add it with `registry base add`" if above.is_base else "publish it"
    return NotFoundError(f"{above} does not exist, and a repo lies under what it was trained on: {how} first.")
