"""The parent of a full model, found as that of any adapter, before what it changed is computed."""

from __future__ import annotations

from registry.operations.publication import Publication
from registry.services.artifacts.load import path_to
from registry.services.deployment import Deployment
from registry.services.lineage import LoadedPath
from registry.services.publishing.candidates import require_publishing
from registry.services.publishing.parents import Told, find_parent
from registry.transfer.trained_on import receipt_of_parent


def parent_here(deployment: Deployment, publication: Publication) -> LoadedPath:
    """The parent in a registry in process.

    Raises:
        NotAllowedError: the principal may not publish at this path.
        What `registry.services.publishing.parents.find_parent` raises.
        RetractedError: the parent or one of its ancestors was retracted.
    """
    require_publishing(deployment, publication.path)
    with deployment.read() as session:
        told = Told(parent=publication.parent, receipt=receipt_of_parent(publication.receipt, None))
        parent = find_parent(session, publication.path, told)
        return path_to(session, parent.base, parent.row)
