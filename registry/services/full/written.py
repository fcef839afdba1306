"""What is published of a full model: all of it, exactly, or the adapter that is nearest to it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from registry.operations.publication import FullModel
from registry.progress import Progress
from registry.schemas.artifacts import Extraction
from registry.services.exact.folder import write_exact_folder
from registry.services.full.extract import extract_full
from registry.services.lineage import Blobs, LoadedPath


def write_full(
    blobs: Blobs, parent: LoadedPath, folder: Path, asked: FullModel, out: Path, progress: Progress
) -> Extraction | None:
    """Write the publish folder of a full model into an empty folder; the report of an extraction, if it is one.

    Raises:
        What `registry.services.full.extract.extract_full` raises, and for an exact one
        `registry.services.exact.folder.write_exact_folder`.
    """
    if not asked.is_exact:
        return extract_full(blobs, parent, folder, asked, out, progress)
    base = replace(parent, reference=parent.base.name, links=())
    write_exact_folder(blobs, base, folder, out, progress)
    return None
