"""Handlers of other names.

Tensor code is imported where it is needed, so that browsing starts fast.
"""

from __future__ import annotations

from registry.catalogue.changes import rename, repo_ids
from registry.errors import UsageError
from registry.operations import table
from registry.progress import Progress
from registry.reference import Path, check_adapter_name, check_base_name
from registry.schemas.labels import AlsoKnownAs, AlsoKnownAsRequest, RenameBaseRequest, Renamed, RenameRequest
from registry.services.deployment import Deployment
from registry.services.handlers.handling import does


@does(table.RENAME)
def _rename(deployment: Deployment, request: RenameRequest, _progress: Progress) -> Renamed:
    old = Path.parse(request.path)
    if old.parent is None:
        raise UsageError(f"{old} is a base model: `registry base rename {old} NAME` renames it.")
    new = _beside(old, old.parent, request.name)
    deployment.rights.require_on("writer", new, "rename an adapter")
    return deployment.change(lambda session: rename.rename(session, old, new, deployment.principal))


def _beside(old: Path, parent: Path, name: str) -> Path:
    """The new path: ``name`` is the last name alone, or a path with the same parent."""
    if "/" not in name:
        return Path.parse(f"{parent}/{check_adapter_name(name)}")
    new = Path.parse(name)
    if new.parent != parent:
        raise UsageError(
            f"{old} can't become {new}: the parent stays {parent}, because it is what {old.name} was trained on. Only "
            f"the last name can change: `registry rename {old} NAME`."
        )
    return new


@does(table.RENAME_BASE)
def _rename_base(deployment: Deployment, request: RenameBaseRequest, _progress: Progress) -> Renamed:
    if "/" in request.name:
        path = Path.parse(request.name)
        raise UsageError(f"{path} is the path of an adapter: `registry rename {path} NAME` renames it.")
    old, new = Path(check_base_name(request.name)), Path(check_base_name(request.new))
    deployment.rights.require_on("admin", new, "rename a base model")
    return deployment.change(lambda session: rename.rename_base(session, old, new, deployment.principal))


@does(table.ALSO_KNOWN_AS)
def _also_known_as(deployment: Deployment, request: AlsoKnownAsRequest, _progress: Progress) -> AlsoKnownAs:
    base = check_base_name(request.name)
    change = repo_ids.take_away if request.remove else repo_ids.give
    return deployment.change(lambda session: change(session, base, request.repo_id, deployment.principal))
