"""Weights taken out of a registry: read, fetched, verified, precomputed."""

from __future__ import annotations

from abc import abstractmethod
from os import PathLike
from pathlib import Path as FilePath

from registry.operations import table
from registry.operations.arguments import asked
from registry.operations.methods.table_calls import TableCalls
from registry.operations.readable import ReadableArtifact
from registry.progress import SILENT, Progress
from registry.schemas import ArtifactKind, Dtype, Fetched, Materialisation, Materialised, Options, Verified
from registry.schemas.requests import DropRequest, MaterialisationsRequest, MaterialiseRequest

Folder = str | PathLike[str]


class Artifacts(TableCalls):
    """Weights taken out of a registry: read, fetched, verified, precomputed."""

    @abstractmethod
    def _artifact(self, ref: str, options: Options) -> ReadableArtifact:
        """Open an artifact."""

    @abstractmethod
    def _fetch(
        self,
        ref: str,
        out: FilePath | None,
        options: Options,
        *,
        force: bool,
        base_dir: FilePath | None,
        progress: Progress,
    ) -> Fetched:
        """Write an artifact into a folder."""

    def artifact(
        self,
        ref: str,
        *,
        kind: ArtifactKind = "lora",
        since: str | None = None,
        rank: int | None = None,
        max_error: float | None = None,
        uniform: bool = False,
        dtype: Dtype | None = None,
    ) -> ReadableArtifact:
        """The files that a reference stands for, readable by range, without writing anything.

        ``rank`` and ``max_error`` truncate a composed adapter: a cap for each module, and a bound of the relative
        Frobenius error over all of them. ``uniform`` fills it with zeros to one rank.
        """
        options = asked(Options, kind=kind, since=since, rank=rank, max_error=max_error, uniform=uniform, dtype=dtype)
        return self._artifact(ref, options)

    def fetch(
        self,
        ref: str,
        out: Folder | None = None,
        *,
        kind: ArtifactKind = "lora",
        since: str | None = None,
        rank: int | None = None,
        max_error: float | None = None,
        uniform: bool = False,
        dtype: Dtype | None = None,
        force: bool = False,
        base_dir: Folder | None = None,
        progress: Progress = SILENT,
    ) -> Fetched:
        """Write an artifact into a folder, with a receipt beside its files.

        ``base_dir`` holds the base model's files on this machine: a merged model is then computed here, from the
        adapters alone, where the registry is a service. Its digests are checked.
        """
        options = asked(Options, kind=kind, since=since, rank=rank, max_error=max_error, uniform=uniform, dtype=dtype)
        place, weights = (None if one is None else FilePath(one) for one in (out, base_dir))
        return self._fetch(ref, place, options, force=force, base_dir=weights, progress=progress)

    @abstractmethod
    def verify(self, folder: Folder, *, progress: Progress = SILENT) -> Verified:
        """Check a fetched folder against its receipt and, by computing it again, against the registry."""

    def materialise(
        self, ref: str, *, kind: ArtifactKind = "lora", expires_in: int | None = None, progress: Progress = SILENT
    ) -> Materialised:
        """Precompute the artifact that a reference stands for and keep it in the store for a while.

        ``expires_in`` in seconds; 30 days without it. What is kept already is kept for longer, and never for less.
        """
        return self._do(
            table.MATERIALISE, asked(MaterialiseRequest, ref=ref, kind=kind, expires_in=expires_in), progress
        )

    def materialisations(self, ref: str | None = None) -> tuple[Materialisation, ...]:
        """What is materialised, by path and number: all, or at and under a path, or of one revision (``PATH@...``)."""
        return self._list(table.MATERIALISATIONS, asked(MaterialisationsRequest, ref=ref))

    def drop_materialisation(self, which: str, *, kind: ArtifactKind | None = None) -> tuple[Materialisation, ...]:
        """Drop one materialisation by its id, or all of a revision, or only its ``kind``; returns what was dropped."""
        return self._do(table.DROP_MATERIALISATION, asked(DropRequest, which=which, kind=kind))
