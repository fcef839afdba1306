"""Whole heaps in and single artifacts out: import by a plan that is applied exactly, and export for a Hub."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from os import PathLike, fspath
from pathlib import Path
from pathlib import Path as FilePath

from registry.bars import progress_sink
from registry.errors import NotFoundError, UsageError
from registry.operations import table
from registry.operations.arguments import Export, asked
from registry.operations.import_plan import ImportPlan, read_document
from registry.operations.methods.calls import TableCalls
from registry.progress import Progress
from registry.schemas import ArtifactKind, FolderOutcome
from registry.schemas.labels import Exported
from registry.schemas.publishing import ImportDocument
from registry.schemas.requests import ExportCardRequest, ReferenceRequest

_HUB = "hf:"
_FILES = frozenset({".gguf", ".safetensors", ".bin", ".zip", ".tar", ".gz", ".tgz"})
"""Suffixes of what is no folder."""


class Exporting(TableCalls):
    """Weights that leave the team, as repositories for a Hub."""

    @abstractmethod
    def _export(self, export: Export, progress: Progress) -> Exported:
        """Write an export."""

    def export(
        self,
        ref: str,
        target: str | PathLike[str],
        *,
        kind: ArtifactKind = "lora",
        base_model: str | None = None,
        public: bool = False,
        with_names: bool = False,
        dry_run: bool = False,
        progress: Progress | bool = False,
    ) -> Exported:
        """Write a revision as a repository for a Hub: its files, a model card, and a receipt that proves its parent.

        Paths are names of customers, so the card and the receipt have digests instead of them, and nothing else that
        was written about the revision goes out but its metrics. What comes back, by `publish`, has its parent proven.

        Args:
            ref: the revision.
            target: a folder that is absent, empty, or holds an earlier export; or ``hf:ORG/REPO``, such a repository,
                which is written with the token of the Hub's own client (``HF_TOKEN``).
            kind: as for `artifact`.
            base_model: the repository of the model that it goes on, ``ORG/REPO``. None: the one that the base model
                was taken from.
            public: make a new repository public; else it is private.
            with_names: let paths, the message and the published README.md go out; never annotations.
            dry_run: only report what would be written.
            progress: True shows a bar.

        Returns:
            What is in the target now; ``created`` is False if it held these very files already.

        Raises:
            NotFoundError: the revision does not exist.
            RetractedError: it, or one that it was trained on, was retracted.
            ConflictError: ``folder_taken`` or ``repo_taken``: the target holds something else. ``names_inside``: a
                file that would go out holds a path.
            NotFoundError: the folder that ``target`` would lie in does not exist.
            UsageError: ``target`` or ``base_model`` is no name of a repository, or ``public`` is about a folder.
            NotAllowedError, UnavailableError: the Hub refuses, or can't be reached.

        Example:
            >>> exported = team.export("llama/support/french", "./for-the-hub", base_model="meta-llama/Llama-3.2-1B")
            >>> exported
            <Exported llama/support/french@1 as lora: 4 files, ..., to ...for-the-hub>
            >>> team.publish("./for-the-hub", "llama/french").revision.parent_known_by
            'receipt'
        """
        from registry.folders.hub.repository import as_repository

        place = fspath(target)
        if not place or "://" in place:
            raise UsageError(
                f"{place!r} is no target: a folder, or hf:ORG/REPO for a repository of a Hub, is expected"
                f"{'.' if (repository := as_repository(place)) is None else f', here {repository}.'}"
            )
        if (repository := as_repository(place)) is not None and not Path(place).parent.exists():
            raise NotFoundError(
                f"There is no folder {str(Path(place).parent)!r} to write {place!r} into. To a Hub: {repository}",
                code="missing_file",
            )
        if (suffix := Path(place).suffix.lower()) in _FILES and not place.startswith(_HUB):
            raise UsageError(f"A folder is written, and {place!r} is named as a {suffix} file is: name a folder.")
        if public and not place.startswith(_HUB):
            raise UsageError(f"--public is about repositories of a Hub, and {place} is a folder: leave it out.")
        request = asked(ExportCardRequest, ref=ref, kind=kind, base_model=base_model, with_names=with_names)
        card = self._do(table.EXPORT_CARD, request)
        lineage = self._do(table.RESOLVE, ReferenceRequest(ref=card.reference)).lineage
        paths = (*(entry.reference.partition("@")[0] for entry in lineage), *card.other_names)
        with progress_sink(progress) as sink:
            return self._export(Export(place, kind, card, paths, public, with_names, dry_run), sink)


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
        away: folder and registry stay unchanged. What is not proven is ``undecided`` in the plan, with what is nearest.

        Args:
            source: the folder or archive that is looked through; or ``hf:ORG``, all repositories of an organisation,
                downloaded.
            progress: True shows a bar.

        Returns:
            The plan: `write` it to a file to read and edit it, or `apply` it.

        Raises:
            UsageError: ``source`` is empty.
            NotFoundError: the folder or repository does not exist.
            UnavailableError: ``missing_package``: torch is not installed here; or the Hub can't be reached.

        Example:
            >>> plan = team.plan_import("./share")
            >>> [(one.folder, one.action, one.parent) for one in plan.entries]
            [('./billing', 'publish', 'llama'), ('./who-knows', 'undecided', None)]
        """
        place = fspath(source)
        if not place:
            raise UsageError("The folder to look through is empty text: give one, such as ./share, or hf:ORG.")
        with progress_sink(progress) as sink:
            return ImportPlan(self._plan_import(place, sink), self.apply_import)

    def apply_import(
        self,
        plan: ImportPlan | ImportDocument | Folder,
        *,
        told: Callable[[FolderOutcome], None] = lambda _: None,
        progress: Progress | bool = False,
    ) -> tuple[FolderOutcome, ...]:
        """Apply a plan, and report the outcome of every folder that it brings in.

        Each folder has to be as the plan saw it, and what the plan has a proof of is proven again. A second run goes on
        where the first was stopped.

        Args:
            plan: a plan, or the file that it was written to, maybe edited since.
            told: called with each outcome.
            progress: True shows a bar.

        Raises:
            UsageError: it is no plan, or contradicts itself; nothing is done then.
            NotFoundError: the file does not exist, or its folder is gone.

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
        with progress_sink(progress) as sink:
            return self._apply_import(document, told, sink)
