"""What some links of a path changed of one module, as tensors: factors, or the dense change."""

from __future__ import annotations

from contextlib import AbstractContextManager, ExitStack

import torch

from registry.operations.readable import LastOpened
from registry.reference import Reference
from registry.services.artifacts.load import path_in
from registry.services.deployment import Deployment
from registry.tensors.analysis.dense import ChangedWeights, Factors
from registry.tensors.lineage.bound import bound_links
from registry.tensors.lineage.inputs import Inputs, exact_between
from registry.tensors.lineage.paths import Blobs, LoadedPath
from registry.tensors.path.origins import BaseTensors


class WeightChanges:
    """What the links of a path after an ancestor changed: see `registry.operations.methods.analysis.Analysis`.

    Args:
        blobs: where its files are.
        path: the path, root first.
        ancestor: None: the base model.
        opened: what else is closed with it, or if it can't be made.

    Raises:
        UsageError: ``ancestor`` is none of the path.
        InvalidAdapterError: a link is invalid by the rules of this version.
    """

    def __init__(self, blobs: Blobs, path: LoadedPath, ancestor: LoadedPath | None, opened: ExitStack) -> None:
        with opened:
            first = 0 if ancestor is None else len(path.links) - len(path.since(ancestor))
            if path.exact is not None and first < path.dead:
                raise exact_between(path, path.exact)
            since = path.base.name if ancestor is None else ancestor.reference
            inputs = Inputs(blobs, path, opened)
            self._changed = ChangedWeights(
                bound_links(inputs, path.live),
                inputs.table,
                first - path.dead,
                lambda: BaseTensors(inputs.base_weights().tensors),
                f"{since}..{path.reference}",
            )
            self._opened = opened.pop_all()

    def factors(self, module: str, expert: int | None) -> Factors:
        """The factors of a module's change."""
        return self._changed.factors(self._changed.find(module, expert))

    def delta(self, module: str, expert: int | None) -> torch.Tensor:
        """A module's change."""
        return self._changed.delta(self._changed.find(module, expert))

    def close(self) -> None:
        """Close the files."""
        self._opened.close()


def weight_changes(
    deployment: Deployment, ref: str, since: str | None, last: LastOpened[WeightChanges]
) -> AbstractContextManager[WeightChanges]:
    """What changed at a reference since an ancestor; opening it counts as a use of the weights.

    Raises:
        NotFoundError: a reference names nothing.
        RetractedError: a link was retracted.
        UsageError, InvalidAdapterError: as `WeightChanges`, when the context is entered.
    """
    with deployment.read() as session:
        path = path_in(session, Reference.parse(ref))
        ancestor = None if since is None else path_in(session, Reference.parse(since))

    def opened() -> WeightChanges:
        found = WeightChanges(deployment.artifact_blobs, path, ancestor, ExitStack())
        deployment.note_use(path.reference)
        return found

    return last.of((path, ancestor), opened)
