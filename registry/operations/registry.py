"""The registry as its users see it: typed methods over the table of operations.

A registry in process and one over HTTP do the operations; both pass the same conformance suite. All errors are
`registry.errors`. `registry.operations.transfer` is what registries say to each other below this.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable

from registry.operations.methods.administration import Administration
from registry.operations.methods.artifacts import Artifacts
from registry.operations.methods.browsing import Browsing
from registry.operations.methods.labels import Labels
from registry.operations.methods.naming import Naming
from registry.operations.methods.publishing import Publishing
from registry.operations.methods.removal import Removal
from registry.progress import SILENT, Progress
from registry.schemas import Copied


class Registry(Browsing, Labels, Naming, Publishing, Artifacts, Removal, Administration):
    """Adapters as a tree of immutable revisions; the weights that each path of it stands for."""

    @abstractmethod
    def copy(self, ref: str, to: Registry, *, recursive: bool = False, progress: Progress = SILENT) -> Copied:
        """Copy a path, or a whole subtree, with its lineage into another registry; continues an interrupted copy."""

    def copy_all(
        self, to: Registry, *, copied: Callable[[Copied], None] = lambda _: None, progress: Progress = SILENT
    ) -> tuple[Copied, ...]:
        """Copy all base models with all their adapters into another registry; continues an interrupted copy.

        One base model after the other, by name: what `bases` and `tree` list, so old names are left out. ``copied`` is
        called with what was done of each.
        """
        answers = []
        for base in self.bases():
            answers.append(self.copy(base.name, to, recursive=True, progress=progress))
            copied(answers[-1])
        return tuple(answers)
