"""The registry as its users see it: typed methods over the table of operations.

A registry in process and one over HTTP do the operations; both pass the same conformance suite. All errors are
`registry.errors`. `registry.operations.transfer` is what registries say to each other below this.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from typing import Self

from registry.bars import progress_sink
from registry.operations.methods.administration import Administration
from registry.operations.methods.analysis import Analysis
from registry.operations.methods.artifacts import Artifacts
from registry.operations.methods.browsing import Browsing
from registry.operations.methods.following import Following
from registry.operations.methods.happening import Happening
from registry.operations.methods.importing import Exporting, Importing
from registry.operations.methods.labels import Labels, Naming
from registry.operations.methods.publishing import Combining, Publishing
from registry.operations.methods.retention import Removal, Retaining
from registry.progress import Progress
from registry.schemas import Copied


class Registry(
    Browsing,
    Happening,
    Analysis,
    Labels,
    Naming,
    Publishing,
    Combining,
    Importing,
    Artifacts,
    Exporting,
    Removal,
    Retaining,
    Following,
    Administration,
):
    """Adapters as a tree of immutable revisions; the weights that each path of it stands for.

    `registry.connect` opens one: a folder, a team's database and store, or a service. The methods are the same, and so
    are their answers (immutable schemas) and errors (`registry.errors`, all of them a `RegistryError` with a ``code``).
    Close it when you are done, or use it in a ``with`` block.

    Threads may share one registry, and one artifact: each call takes a connection of its own. What a call is given
    belongs to that call: a progress sink or a callback is called from one thread at a time, but two calls at once with
    the same one are yours to keep apart. Processes may not: connections do not survive a fork. Open the registry in the
    child, or start children by ``spawn``.

    Example:
        >>> with registry.connect("./my-registry") as team:
        ...     print(team.tree("llama"))
        llama
          support@2 [prod], rank 4, acc=0.88
            french@1, rank 2, acc=0.91
    """

    @abstractmethod
    def _copy(self, ref: str, to: Registry, *, recursive: bool, progress: Progress) -> Copied:
        """Copy a path or a subtree."""

    def copy(self, ref: str, to: Registry, *, recursive: bool = False, progress: Progress | bool = False) -> Copied:
        """Copy a path, or a whole subtree, with its lineage into another registry; continues an interrupted copy.

        Args:
            ref: the revision, or the path if ``recursive``.
            to: the other registry.
            recursive: every revision at and under the path.
            progress: True shows a bar.

        Raises:
            NotFoundError: nothing to copy exists under this name.
            ConflictError: ``other_weights``: the base model of this name in the other registry has other weights.
            NotAllowedError: the token may not write there, or part of the lineage is hidden from this registry's.

        Example:
            >>> with registry.connect("./another-registry") as other:
            ...     copied = team.copy("llama", other, recursive=True)
            >>> [one.reference for one in copied.revisions]
            ['llama/support@1', 'llama/support@2', 'llama/support/french@1']
        """
        to._before_writing()
        with progress_sink(progress) as sink:
            return self._copy(ref, to, recursive=recursive, progress=sink)

    def copy_all(
        self, to: Registry, *, copied: Callable[[Copied], None] = lambda _: None, progress: Progress | bool = False
    ) -> tuple[Copied, ...]:
        """Copy all base models with all their adapters into another registry; continues an interrupted copy.

        One base model after the other, by name: what `bases` and `tree` list, so old names are left out.

        Args:
            to: the other registry.
            copied: is called with what was done of each base model.
            progress: True shows a bar.

        Raises:
            ConflictError, NotAllowedError: as `copy`; what was copied before stays.

        Example:
            >>> with registry.connect("./yet-another-registry") as other:
            ...     [len(one.revisions) for one in team.copy_all(other)]
            [3]
        """
        answers = []
        for base in self.bases():
            answers.append(self.copy(base.name, to, recursive=True, progress=progress))
            copied(answers[-1])
        return tuple(answers)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def __dir__(self) -> list[str]:
        """What users call, for the completion of shells: not what the parts of this program call of each other."""
        return [name for name in dir(Registry) if not name.startswith("_") or name.startswith("__")]

    def __repr__(self) -> str:
        where = "over HTTP" if self.url.startswith(("http://", "https://")) else "in this process"
        return f"<registry at {self.url}, {where}>"
