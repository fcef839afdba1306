"""Fetching: an artifact written into a folder that appears when it is complete, with a receipt beside its files."""

from __future__ import annotations

from pathlib import Path

from registry.folders.cache import FetchCache
from registry.folders.filling import absolute, already_there, fetched, fill, may_fill
from registry.folders.receipts import Receipt
from registry.progress import Progress
from registry.schemas import Fetched, Options, OutputFile
from registry.services.deployment import Deployment
from registry.services.handing_out import ask, described, open_asked
from registry.services.receipt import receipt_of


def fetch(
    deployment: Deployment,
    cache: FetchCache,
    ref: str,
    out: Path | None,
    options: Options,
    *,
    force: bool,
    progress: Progress,
) -> Fetched:
    """Write an artifact into a folder; see `registry.services.protocol.Registry.fetch`.

    Raises:
        ConflictError: ``folder_taken``, the folder holds something else.
        AccuracyError: the asked-for error can't be reached.
        UnavailableError, NotAllowedError: the file system refused; nothing is left behind.
    """
    asked = ask(deployment, ref, options)
    with open_asked(deployment, asked) as artifact:
        place = cache.place(artifact.rendering) if out is None else absolute(out)

        def make_receipt(files: tuple[OutputFile, ...]) -> Receipt:
            return receipt_of(described(asked.path, asked.ancestor, artifact), files, deployment.url)

        there = already_there(place, artifact.rendering, artifact.size, make_receipt, progress)
        if there is not None:
            if out is None:
                cache.used(place)
            return there
        replace = may_fill(place, force=force or out is None)
        receipt = fill(place, artifact, make_receipt, replace=replace, progress=progress)
    if out is None:
        cache.shrink(keep=place)
    return fetched(receipt, place, fresh=True)
