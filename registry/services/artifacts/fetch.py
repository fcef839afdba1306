"""Fetching: writing an artifact and its receipt into a folder that appears only when it is complete."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path

from registry.folders.base_weights import WeightFile, check_weights
from registry.folders.cache import FetchCache
from registry.progress import Progress
from registry.schemas import Fetched, Options
from registry.schemas.renaming import old_name_notices
from registry.services.artifacts.opened import ask, described, open_asked
from registry.services.deployment import Deployment
from registry.transfer.fetch import FetchSource, write_artifact
from registry.transfer.receipts import receipt_of


def fetch(
    deployment: Deployment,
    cache: FetchCache,
    ref: str,
    out: Path | None,
    options: Options,
    *,
    force: bool,
    base_dir: Path | None = None,
    progress: Progress,
) -> Fetched:
    """Write an artifact into a folder; see `registry.operations.registry.Registry.fetch`.

    A registry in process merges on its own stored files. It only checks that those in ``base_dir`` are the same, so
    that other weights are refused as by a client that merges on them.

    Raises:
        NotFoundError, IntegrityError: ``base_dir`` has no such file, or ``wrong_base``.
        ConflictError: ``folder_taken``, the folder holds something else.
        AccuracyError: the requested error can't be reached.
        UnavailableError, NotAllowedError: the file system refused; nothing is left behind.
    """
    asked = ask(deployment, ref, options)
    if base_dir is not None:
        base = asked.path.base
        files = (file for file in base.files if file.path.endswith(".safetensors"))
        wanted = (WeightFile(file.path, file.size, file.digest) for file in files)
        check_weights(base_dir, base.name, wanted, progress)
    with open_asked(deployment, asked) as artifact:
        deployment.note_use(asked.path.reference)
        source = FetchSource(
            artifact.rendering,
            artifact.size,
            receipt=lambda files: receipt_of(described(asked.path, asked.ancestor, artifact), files, deployment.url),
            open=lambda _: nullcontext(artifact),
            lasting=old_name_notices(asked.path.reference, asked.renamed_to),
        )
        return write_artifact(source, cache, out, force=force, progress=progress)
