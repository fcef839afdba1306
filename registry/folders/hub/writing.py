"""Writes an export to a repository of a Hub: one commit, on the commit that was looked at.

A repository that holds anything but an unchanged export is left as it is.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from registry.digest import PREFIX, sha256_digest
from registry.errors import (
    ConflictError,
    IntegrityError,
    NotAllowedError,
    NotFoundError,
    RegistryError,
    UnavailableError,
)
from registry.folders.hub.client import REFUSED, HubClient, HubFile, said
from registry.folders.output import difference
from registry.folders.receipts import read_receipt
from registry.folders.scan import RECEIPT
from registry.progress import SILENT, Progress
from registry.schemas.receipt import Receipt

_OF_THE_HUB: Final = ".gitattributes"
"""What a new repository holds already."""
_CHANGED: Final = (409, 412)


@dataclass(frozen=True)
class Repository:
    """A repository as it is now."""

    commit: str
    public: bool
    export: Receipt | None  # None: it is empty
    files: frozenset[str]


class HubWriter(HubClient):
    """A repository that an export is written to."""

    _verb = "written to"

    def look(self) -> Repository | None:
        """The repository now; None: it does not exist, as far as the token sees.

        Raises:
            ConflictError: ``repo_taken``, it holds something else, or an export that was changed.
            UnavailableError, NotAllowedError: the Hub can't be reached, or refuses.
        """
        if self._offline:
            raise UnavailableError(
                f"{self._called} can't be written, because HF_HUB_OFFLINE forbids network access: unset it."
            )
        try:
            with self._told(None):
                info = self._api.model_info(self._repo_id)
        except NotFoundError:
            return None
        commit = str(info.sha)
        files = {file.path: file for file in self.files(commit) if file.path != _OF_THE_HUB}
        receipt = self._export(commit, files) if files else None
        return Repository(commit, not info.private, receipt, frozenset(files))

    @property
    def page(self) -> str:
        """The address of the repository's page."""
        return f"{self.endpoint}/{self._repo_id}"

    def create(self, *, public: bool) -> Repository:
        """A new repository, empty."""
        with self._writing():
            self._api.create_repo(self._repo_id, private=not public)
        made = self.look()
        if made is None:
            raise UnavailableError(f"{self.endpoint} has no {self._called} after it was created: try again later.")
        return made

    def write(self, there: Repository, files: Mapping[str, Path | bytes], title: str, progress: Progress) -> str:
        """Make the repository hold these files, in one commit, which is returned.

        Raises:
            ConflictError: ``repo_taken``, it was changed since ``there``.
        """
        adding, deleting = self._hub.CommitOperationAdd, self._hub.CommitOperationDelete
        operations = [
            *(deleting(path_in_repo=path) for path in sorted(there.files - files.keys())),
            *(
                adding(path_in_repo=path, path_or_fileobj=one if isinstance(one, bytes) else str(one))
                for path, one in sorted(files.items())
            ),
        ]
        with self._writing(), _bars(shown=progress is not SILENT):
            made = self._api.create_commit(self._repo_id, operations, commit_message=title, parent_commit=there.commit)
        return str(made.oid)

    # -------------------------------------------------------------- what the repository holds

    def _export(self, commit: str, files: Mapping[str, HubFile]) -> Receipt:
        """The receipt of the export that a repository holds, after comparing every file with it."""
        if RECEIPT not in files:
            raise self._taken("holds files that no export wrote")
        place = self.bring(commit, [files[RECEIPT]], SILENT)[RECEIPT]
        try:
            receipt = read_receipt(place)
        except (NotFoundError, IntegrityError):
            raise self._taken("has a receipt that can't be read") from None
        if receipt.exported is None:
            raise self._taken("holds what `registry fetch` wrote, and no export")
        if (changed := difference(receipt, set(files))) is not None:
            raise self._taken(changed)
        for file in receipt.files:
            if self._digest(commit, files[file.path]) != receipt.exported.get(file.path):
                raise self._taken(f"holds {file.path!r} that was changed since the export")
        return receipt

    def _digest(self, commit: str, file: HubFile) -> str:
        """The digest of a file's bytes; of small ones the Hub lists none."""
        if file.sha256 is not None:
            return PREFIX + file.sha256
        return sha256_digest(self.bring(commit, [file], SILENT)[file.path].read_bytes())

    def _taken(self, what: str) -> ConflictError:
        return ConflictError(
            f"{self._called} {what}; an export only replaces an earlier one. Choose a repository that is new or empty.",
            code="repo_taken",
        )

    # -------------------------------------------------------------- errors

    @contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except RegistryError:
            raise
        except Exception as problem:
            raise self._refusal(problem) from problem

    def _refusal(self, problem: Exception) -> RegistryError:
        status = getattr(getattr(problem, "response", None), "status_code", None)
        if status in _CHANGED:
            return ConflictError(
                f"{self._called} was changed by someone else meanwhile; nothing was written. Run this again.",
                code="repo_taken",
            )
        if status in REFUSED:
            return NotAllowedError(
                f"{self.endpoint} refuses to write {self._called} ({status}){said(problem)}: set HF_TOKEN to a token "
                "that may write there."
            )
        return self._error(problem, None)


@contextmanager
def _bars(*, shown: bool) -> Iterator[None]:
    """Let the Hub's client draw its own bars of uploads, or not."""
    utils: Any = importlib.import_module("huggingface_hub.utils")
    if shown or utils.are_progress_bars_disabled():
        yield
        return
    utils.disable_progress_bars()
    try:
        yield
    finally:
        utils.enable_progress_bars()
