"""What is published of a full model: all of it, exactly, or the adapter that is nearest to it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from registry.folders.scan import MODEL_CONFIG
from registry.operations.publication import FullModel
from registry.progress import Progress
from registry.services.exact.folder import write_exact_folder
from registry.services.exact.model_folder import read_full_model
from registry.services.full.extract import extract_full
from registry.services.lineage import Blobs, LoadedPath
from registry.transfer.source import MadeOfFull


def write_full(
    blobs: Blobs, parent: LoadedPath, folder: Path, asked: FullModel, out: Path, progress: Progress
) -> MadeOfFull:
    """Write the publish folder of a full model into an empty folder.

    Raises:
        What `registry.services.exact.model_folder.read_full_model` raises.
        What `registry.services.full.extract.extract_full` raises, and for an exact one
        `registry.services.exact.folder.write_exact_folder`.
    """
    full = read_full_model(folder)
    if not asked.is_exact:
        report = extract_full(blobs, parent, full, asked, out, progress)
        others = [found for found in full.others if found.path != MODEL_CONFIG]
        return MadeOfFull(report, full.left_out(others, "an adapter is made of the weights alone"))
    base = replace(parent, reference=parent.base.name, links=())
    return MadeOfFull(None, write_exact_folder(blobs, base, full, out, progress).left_out)
