"""The life of a tree: revisions deleted or retracted, tags protected."""

from __future__ import annotations

from sqlalchemy.orm import Session

from registry.catalogue import blobs as blob_rows
from registry.catalogue import deletion, protection, retraction, revisions
from registry.errors import UsageError
from registry.reference import Path, Reference
from registry.schemas import Deleted, ProtectedTag, Retracted
from registry.services.deployment import Deployment


def delete(deployment: Deployment, ref: str) -> Deleted:
    """Delete a revision that nothing was trained on; what remains is the event, and that its number is taken.

    Raises:
        NotFoundError: there is no such revision.
        ConflictError: ``has_children``, naming what was trained on it.
        NotAllowedError: the token may not delete there, or a protected tag names the revision.
    """
    principal = deployment.principal
    reference = _revision(ref, "deleted")
    deployment.rights.require_on("writer", reference.path, "delete")

    def work(session: Session) -> Deleted:
        row = revisions.find(session, reference)
        # The grace of its bytes begins now: a delete that was a mistake can be undone by publishing the same again.
        blob_rows.use(session, [file.digest for file in revisions.files(session, row.id)])
        return deletion.delete(session, row.id, principal)

    return deployment.change(work)


def retract(deployment: Deployment, ref: str, reason: str, undo: bool) -> Retracted:
    """Stop handing out a revision and everything that contains it, or ``undo`` that.

    Raises:
        NotFoundError: there is no such revision.
        UsageError: there is no reason, or one for an undo.
        NotAllowedError: the token may not retract there.
    """
    principal = deployment.principal
    reference = _revision(ref, "retracted")
    deployment.rights.require_on("writer", reference.path, "retract")
    if undo and reason:
        raise UsageError("A reason says why a revision is retracted; leave it out to undo that.")

    def work(session: Session) -> Retracted:
        row = revisions.find(session, reference)
        if undo:
            return retraction.undo(session, row.id, principal)
        return retraction.retract(session, row.id, reason, principal)

    return deployment.change(work)


def protect_tag(deployment: Deployment, base: str, pattern: str, remove: bool) -> tuple[ProtectedTag, ...]:
    """Let only admins move the tags that match a pattern; answers with all that is protected at this base model.

    Raises:
        NotFoundError: there is no such base model, or, to ``remove``, no such pattern.
        UsageError: the pattern can match no tag, or the name no base model.
        NotAllowedError: only admins whose scopes cover the base model may.
    """
    principal = deployment.principal
    path = Path.parse(base)
    if not path.is_base:
        raise UsageError(f"{base} is the path of an adapter: tags are protected for a whole base model, {path.base}.")
    deployment.rights.require_on("admin", path, "protect tags")
    change = protection.unprotect if remove else protection.protect
    return deployment.change(lambda session: change(session, path.base, pattern, principal))


def _revision(ref: str, done: str) -> Reference:
    reference = Reference.parse(ref)
    if reference.path.is_base:
        raise UsageError(f"{ref} is a base model; only revisions of adapters can be {done}: {ref}/NAME@N.")
    return reference
