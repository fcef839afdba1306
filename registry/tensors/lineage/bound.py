"""Links of a path, read as checkpoints: what they do to the base model, with the open files of their tensors."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import ExitStack

from registry.errors import InvalidAdapterError
from registry.files.header import read_header
from registry.folders.scan import ADAPTER_CONFIG, ADAPTER_WEIGHTS
from registry.tensors.checkpoint.reading import parse_config, read_checkpoint
from registry.tensors.lineage.inputs import Inputs, exact_link, open_source, path_table
from registry.tensors.lineage.paths import Blobs, Link, LoadedPath, read_blob
from registry.tensors.path.programs import BoundLink, PathPrograms
from registry.tensors.table.targets import TargetTable
from registry.tensors.table.ties import retable_needed, unsaid


def bound_links(inputs: Inputs, links: Iterable[Link]) -> list[BoundLink]:
    """Links of a path, read as checkpoints.

    Raises:
        InvalidAdapterError: ``not_composable``, one is a full fine-tune; or a link is
            invalid by the rules of this version.
    """
    found = []
    for link in links:
        if link.is_exact:
            raise exact_link(link)
        try:
            found.append(bind_link(inputs.blobs, link, inputs.path, inputs.opened))
        except InvalidAdapterError as problem:
            # It was valid when it was published: a rule has become stricter since, or bytes have changed.
            raise InvalidAdapterError(f"{link.reference} can't be used: {problem}", code=problem.code) from problem
    return found


def bind_link(blobs: Blobs, link: Link, path: LoadedPath, open_blobs: ExitStack) -> BoundLink:
    """The checkpoint of a published revision with the open file of its tensors.

    Raises:
        InvalidAdapterError: ``not_composable``, it is a full fine-tune.
    """
    if link.is_exact:
        raise exact_link(link)
    config = parse_config(read_blob(blobs, link.file(ADAPTER_CONFIG)))
    source = open_source(blobs, link.file(ADAPTER_WEIGHTS), open_blobs)
    header = read_header(source, what=ADAPTER_WEIGHTS, error=InvalidAdapterError)
    return BoundLink(read_checkpoint(config, header.entries, path_table(blobs, path)), source)


def check_ties_known(programs: PathPrograms, table: TargetTable, path: LoadedPath) -> None:
    """If this path unties head and embedding, the table has to know all other ties; raises ``retable_needed``."""
    if programs.untied and (tied := unsaid(table)) is not None:
        raise retable_needed(
            f"{' and '.join(map(repr, programs.untied))} are tied, and not whether {tied!r} is too", path.base.name
        )
