"""Links of a path, read as checkpoints: what they do to the base model, with the open files of their tensors."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import ExitStack

from registry.errors import InvalidAdapterError
from registry.files.header import read_header
from registry.folders.scan import ADAPTER_CONFIG, ADAPTER_WEIGHTS
from registry.services.artifacts.inputs import Inputs, exact_link, open_source, path_table
from registry.services.lineage import Blobs, Link, LoadedPath, read_blob
from registry.tensors.checkpoint.reading import parse_config, read_checkpoint
from registry.tensors.path.programs import BoundLink


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
