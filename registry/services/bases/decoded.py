"""A quantised base model that is added: every code is decoded once, so that what is stored is known to mean numbers."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace

from registry.files.header import TensorEntry
from registry.files.source import ByteSource
from registry.progress import Progress
from registry.quantised.listing import PlainListing
from registry.tensors.arithmetic.streamed import RowEnergies
from registry.transfer.index import Decoded, IndexedTensor, ModelIndex

Energies = Mapping[str, RowEnergies]
"""By tensor."""


def decoded(
    index: ModelIndex,
    plain: PlainListing | None,
    said: Iterable[str],
    sources: Mapping[str, ByteSource],
    energies: Energies,
    progress: Progress,
) -> tuple[ModelIndex, dict[str, RowEnergies]]:
    """The index and the energies of the plain tensors of a base model; of one that is not quantised they are as given.

    Args:
        index: of the stored tensors.
        plain: the plain listing.
        said: the stored tensors whose values control the decoding.
        sources: its open weight files, by name.
        energies: of the rows of its stored tensors, as far as they are floats.
        progress: gets the bytes that are decoded.

    Raises:
        What `registry.tensors.quantised.source.pass_by` raises.
    """
    if plain is None:
        return index, dict(energies)
    from registry.tensors.quantised.source import decoded_in, pass_by, plain_weights

    stored = {name: (sources[one.file], one.entry) for name, one in index.tensors.items()}
    weights = plain_weights(plain, stored)
    made = [name for name in plain.names if name in plain.decoded]
    progress.begin("Decoding the base model", sum(_size(weights.tensors[name][1]) for name in made))
    digests = {name: one.digest for name, one in index.tensors.items()}
    found = {name: energies[name] for name in plain.names if name in energies and name not in plain.decoded}
    for name in made:
        source, entry = weights.tensors[name]
        tensor = decoded_in(source, name)
        if tensor is None:
            raise AssertionError(f"{name!r} is decoded")
        passed = pass_by(tensor, entry, progress.advance)
        digests[name], found[name] = passed.digest, passed.energies
    tensors = {
        name: IndexedTensor(entry, digests[name], file)
        for file, header in weights.headers.items()
        for name, entry in header.entries.items()
    }
    return replace(index, tensors=tensors, quantised=Decoded(index.tensors, plain, tuple(sorted(said)))), found


def _size(entry: TensorEntry) -> int:
    return entry.stop - entry.start
