"""What an export is asked for, with the card that it gets."""

from __future__ import annotations

from dataclasses import dataclass

from registry.schemas import ArtifactKind
from registry.schemas.cards import ExportCard


@dataclass(frozen=True)
class Export:
    """A revision that is to be written as a repository for a Hub."""

    target: str  # a folder, or hf:ORG/REPO
    kind: ArtifactKind
    card: ExportCard
    paths: tuple[str, ...]  # of the lineage, root first, and what these are called besides
    public: bool
    with_names: bool
    dry_run: bool
