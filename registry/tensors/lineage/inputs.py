"""The inputs of artifacts: the open blobs of a path, as base tensors and stored files. Needs no torch.

Also the errors where an exact revision, which replaces tensors instead of adding to them, can't be composed.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from typing import Final

from registry.digest import BlobRef, StoredFile
from registry.errors import IntegrityError, InvalidAdapterError, UsageError
from registry.files.header import Header, ModelWeights, TensorEntry, Tensors, read_model_header
from registry.files.source import ByteSource
from registry.folders.scan import EXACT_WEIGHTS
from registry.images.outgoing import components_of_base
from registry.quantised.listing import PlainListing
from registry.schemas.artifacts import FourBits
from registry.tensors.artifacts.artifact import ArtifactFile, source_file
from registry.tensors.lineage.paths import Blobs, Link, LoadedPath, PathBase, read_blob, read_document, target_table
from registry.tensors.table.targets import TargetTable
from registry.transfer.index import plain_of, weight_files
from registry.transfer.model_files import CONFIG


def exact_link(link: Link) -> InvalidAdapterError:
    """A link where one is expected that adds to the weights."""
    return InvalidAdapterError(
        f"{link.reference} is an exact full fine-tune, which replaces tensors of the base model instead of adding to "
        f"them, so this can't be done with it; `registry fetch {link.reference} --as merged` gives its weights, and "
        "publishing the model with `--full --rank N` makes an adapter of it.",
        code="not_composable",
    )


def exact_between(path: LoadedPath, exact: Link) -> InvalidAdapterError:
    """What some links of a path change together."""
    way = f"; after it, with --since {exact.reference}, they have" if path.live else ""
    return InvalidAdapterError(
        f"{exact.reference} is an exact full fine-tune, which replaces tensors of the base model, so the links of "
        f"{path.reference} have no delta together{way}. `--as merged` gives its weights.",
        code="not_composable",
    )


def exact_as_lora(path: LoadedPath, exact: Link) -> InvalidAdapterError:
    """A path that no LoRA equals."""
    fetch = f"registry fetch {path.reference}"
    below = f"`{fetch} --since {exact.reference}` the adapters below it as one, " if path.live else ""
    return InvalidAdapterError(
        f"No LoRA equals {path.reference}: {exact.reference} is an exact full fine-tune, which replaces tensors of "
        f"the base model. `{fetch} --as merged` gives the model, {below}and publishing that model with "
        "`--full --rank N` a LoRA that is near it.",
        code="not_composable",
    )


_PIPELINE: Final = "model_index.json"
_OF_DIFFUSERS: Final = "_class_name"


class Inputs:
    """The blobs of a path; ``opened`` closes those that are opened here."""

    def __init__(self, blobs: Blobs, path: LoadedPath, opened: ExitStack, onto: FourBits | None = None) -> None:
        self.blobs = blobs
        self.path = path
        self.opened = opened
        self._onto = onto  # how the base is quantised before anything goes on it

    @cached_property
    def table(self) -> TargetTable:
        """The target table of the model that the path's live links go on."""
        return path_table(self.blobs, self.path)

    @cached_property
    def is_image_model(self) -> bool:
        """Whether the base model is a pipeline of diffusers, or a component of one."""
        files = {file.path: file for file in self.path.base.files}
        if _PIPELINE in files or CONFIG not in files:
            return any(one.lead and one.is_denoiser for one in components_of_base(self.table.targets))
        document = json.loads(read_blob(self.blobs, files[CONFIG]))
        return _OF_DIFFUSERS in document and not document.get("model_type")

    def base_weights(self) -> ModelWeights:
        """See the function `base_weights`; quantised first, if requested."""
        weights = weights_of(self.stored, self.blobs, self.path, self.opened)
        if self._onto is None:
            return weights
        if self.stored.plain is not None:  # quantising what was quantised gives other numbers
            raise UsageError(
                f"{self.path.base.name} is quantised itself, which is what adapters on it are trained on: leave --onto "
                "trained out."
            )
        from registry.tensors.quantised.trained import trained_weights

        return trained_weights(weights, self.table, self._onto)

    @cached_property
    def stored(self) -> StoredWeights:
        """The weight files of the base model as they are stored."""
        return stored_weights(self.blobs, self.path, self.opened)

    def source(self, blob: BlobRef) -> ByteSource:
        """An open blob."""
        return open_source(self.blobs, blob, self.opened)


def open_source(blobs: Blobs, blob: BlobRef, opened: ExitStack) -> ByteSource:
    """A blob, open until ``opened`` is closed."""
    reader = blobs.open_blob(blob)
    opened.callback(reader.close)
    return reader


def stored_files(blobs: Blobs, files: Iterable[StoredFile], opened: ExitStack) -> list[ArtifactFile]:
    """Stored files, byte for byte, with the headers of those that hold tensors."""
    found = []
    for file in files:
        source = open_source(blobs, file, opened)
        header = read_model_header(source, file.path, error=IntegrityError) if _is_weights(file.path) else None
        found.append(source_file(file.path, source, header, file.digest))
    return found


@dataclass(frozen=True)
class StoredWeights:
    """The weight files of a base model as they are stored, and what they mean if they are quantised."""

    headers: Mapping[str, Header]
    tensors: Tensors
    plain: PlainListing | None


def stored_weights(blobs: Blobs, path: LoadedPath, open_blobs: ExitStack) -> StoredWeights:
    """Open the weight files of a path's base model."""
    by_name = {file.path: file for file in path.base.files}
    headers: dict[str, Header] = {}
    tensors: dict[str, tuple[ByteSource, TensorEntry]] = {}
    document = read_document(blobs, path.base.index)
    for name in weight_files(document):
        source = open_source(blobs, by_name[name], open_blobs)
        headers[name] = read_model_header(source, name, error=IntegrityError)
        tensors.update({tensor: (source, entry) for tensor, entry in headers[name].entries.items()})
    return StoredWeights(headers, tensors, plain_of(document))


def base_weights(blobs: Blobs, path: LoadedPath, open_blobs: ExitStack) -> ModelWeights:
    """The weights that the live links of a path go on: the base's, with those of its exact link laid over them."""
    return weights_of(stored_weights(blobs, path, open_blobs), blobs, path, open_blobs)


def weights_of(stored: StoredWeights, blobs: Blobs, path: LoadedPath, open_blobs: ExitStack) -> ModelWeights:
    """The same, where the base's files are open."""
    if stored.plain is not None:
        if path.exact is not None:
            raise AssertionError(f"{path.reference} is a full fine-tune of a quantised base model, which is refused")
        from registry.tensors.quantised.source import plain_weights  # only quantised bases need torch here

        return plain_weights(stored.plain, stored.tensors, stored.headers)
    if path.exact is None:
        return ModelWeights(stored.headers, stored.tensors)
    # Only paths with such a link need zstd and numpy.
    from registry.tensors.exact.contents import with_exact_tensors
    from registry.tensors.exact.file_format import read_index

    exact = open_source(blobs, path.exact.file(EXACT_WEIGHTS), open_blobs)
    what = f"{EXACT_WEIGHTS} of {path.exact.reference}"
    return with_exact_tensors(
        ModelWeights(stored.headers, stored.tensors), read_index(exact, what=what, error=IntegrityError), exact
    )


def replaced_tensors(blobs: Blobs, path: LoadedPath) -> frozenset[str]:
    """The tensors of the base model that the exact link of a path replaces; none without such a link."""
    if path.exact is None:
        return frozenset()
    from registry.tensors.exact.file_format import read_index

    with ExitStack() as opened:
        exact = open_source(blobs, path.exact.file(EXACT_WEIGHTS), opened)
        what = f"{EXACT_WEIGHTS} of {path.exact.reference}"
        return frozenset(read_index(exact, what=what, error=IntegrityError).entries)


def path_table(blobs: Blobs, path: LoadedPath) -> TargetTable:
    """The target table of the model that the live links of a path go on: the base's, maybe with a grown vocabulary."""
    table = target_table(blobs, path.base)
    if path.exact is None:
        return table
    exact = path.exact.file(EXACT_WEIGHTS)
    digests = (path.base.table.digest, path.base.index.digest, exact.digest)
    return _grown(_Grown(digests, lambda: table_on(blobs, path.base, exact, table)))


@dataclass(frozen=True)
class _Grown:
    """A cache key: the digests that a table depends on, and how to make it."""

    digests: tuple[str, ...]
    make: Callable[[], TargetTable] = field(compare=False)


@lru_cache(maxsize=8)
def _grown(asked: _Grown) -> TargetTable:
    return asked.make()


def table_on(blobs: Blobs, base: PathBase, exact: BlobRef, table: TargetTable) -> TargetTable:
    """A table of a base model where the tensors of an exact file replace those of the base."""
    from registry.tensors.exact.file_format import read_index
    from registry.tensors.exact.fit import grown_shapes, grown_table, shapes_in

    with ExitStack() as opened:
        index = read_index(open_source(blobs, exact, opened), what=EXACT_WEIGHTS, error=IntegrityError)
    return grown_table(table, grown_shapes(index, shapes_in(read_document(blobs, base.index))))


def _is_weights(path: str) -> bool:
    """Whether a file of an artifact holds tensors."""
    return path.endswith(".safetensors") and "/" not in path
