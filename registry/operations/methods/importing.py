"""Bringing in a heap of folders: a plan first, which changes nothing, and then exactly what it says."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from os import PathLike, fspath
from pathlib import Path as FilePath

from registry.bars.shown import shown
from registry.errors import UsageError
from registry.operations.import_plan import ImportPlan, read_document
from registry.operations.methods.table_calls import TableCalls
from registry.progress import Progress
from registry.schemas import FolderOutcome
from registry.schemas.publishing import ImportDocument

Folder = str | PathLike[str]


class Importing(TableCalls):
    """Bringing in a heap of folders."""

    @abstractmethod
    def _plan_import(self, source: str, progress: Progress) -> ImportDocument:
        """Plan an import."""

    @abstractmethod
    def _apply_import(
        self, document: ImportDocument, told: Callable[[FolderOutcome], None], progress: Progress
    ) -> tuple[FolderOutcome, ...]:
        """Apply a plan."""

    def plan_import(self, source: Folder, *, progress: Progress | bool = False) -> ImportPlan:
        """Say what of a heap of folders can come in, where and with which proof, and what can't and why.

        Every adapter, merged model and base model below the folder is tried in a registry of its own that is thrown
        away: nothing is changed, here or there. What is not proven is ``undecided`` in the plan, with what is nearest.

        Args:
            source: the folder or archive that is looked through; or ``hf:ORG``, all repositories of an organisation,
                downloaded.
            progress: True shows a bar.

        Returns:
            The plan: `write` it to a file to read and edit it, or `apply` it.

        Raises:
            UsageError: ``source`` is empty.
            NotFoundError: there is no such folder, or no repository.
            UnavailableError: ``missing_package``: torch is not installed here; or the Hub can't be reached.

        Example:
            >>> plan = team.plan_import("./share")
            >>> [(one.folder, one.action, one.parent) for one in plan.entries]
            [('./billing', 'publish', 'llama'), ('./who-knows', 'undecided', None)]
        """
        place = fspath(source)
        if not place:
            raise UsageError("The folder to look through is empty text: give one, such as ./share, or hf:ORG.")
        with shown(progress) as sink:
            return ImportPlan(self._plan_import(place, sink), self.apply_import)

    def apply_import(
        self,
        plan: ImportPlan | ImportDocument | Folder,
        *,
        told: Callable[[FolderOutcome], None] = lambda _: None,
        progress: Progress | bool = False,
    ) -> tuple[FolderOutcome, ...]:
        """Do what a plan says, and tell the outcome of every folder that it brings in.

        Each folder has to be as the plan saw it, and what the plan has a proof of is proven again. A second run goes on
        where the first was stopped.

        Args:
            plan: a plan, or the file that it was written to, maybe edited since.
            told: called with each outcome.
            progress: True shows a bar.

        Raises:
            UsageError: it is no plan, or contradicts itself; nothing is done then.
            NotFoundError: there is no such file, or its folder is gone.

        Example:
            >>> team.plan_import("./share").write("./plan.json")
            >>> [(one.path, one.state) for one in team.apply_import("./plan.json")]
            [('llama/billing', 'published')]
        """
        if isinstance(plan, ImportPlan):
            document = plan.document
        else:
            document = plan if isinstance(plan, ImportDocument) else read_document(FilePath(plan))
        self._before_writing()
        with shown(progress) as sink:
            return self._apply_import(document, told, sink)
