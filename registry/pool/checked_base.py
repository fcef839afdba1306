"""The base model under a pool: found by its digests, and every tensor of the running model compared with it."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch
from torch import nn

from registry.digest import PREFIX
from registry.errors import IntegrityError, RegistryError, UsageError
from registry.folders.receipts import read_receipt
from registry.operations.transfer import ClosableSource
from registry.pool.layout import Layout, LiveTensor, OtherModelError, Place, lay_out
from registry.schemas import BaseSummary, Fetched, Published, Resolved
from registry.schemas.transfer import BlobEntry, Bundle
from registry.tensors.arithmetic.dtypes import TORCH
from registry.tensors.arithmetic.kernel import block_rows, round_into
from registry.tensors.arithmetic.threads import in_order
from registry.tensors.lineage.inputs import open_source
from registry.tensors.lineage.paths import LoadedPath, read_document, target_table
from registry.tensors.lineage.received_bundles import Bundles
from registry.tensors.path.origins import BaseTensors
from registry.tensors.quantised.source import plain_weights
from registry.tensors.table.targets import TargetTable
from registry.transfer.index import plain_of, stored_index, weight_files


@runtime_checkable
class PoolRegistry(Protocol):
    """What a pool needs of a registry; in process and over HTTP it is the same."""

    def bases(self) -> tuple[BaseSummary, ...]:
        """All base models."""

    def resolve(self, ref: str) -> Resolved:
        """Which revision a reference means now, and what of its lineage is retracted."""

    def bundle(self, ref: str) -> Bundle:
        """A path as digests; refused where it is retracted or not to be seen."""

    def note_use(self, ref: str) -> None:
        """Have a use of the weights counted."""

    def open_blob(self, ref: str, blob: BlobEntry) -> ClosableSource:
        """A blob of a bundle."""

    def fetch(self, ref: str, out: Any = None, **options: Any) -> Fetched:
        """Write an artifact into a folder."""

    def publish(self, folder: Any, path: str, **options: Any) -> Published:
        """Publish an adapter."""

    @property
    def url(self) -> str:
        """Where it is, for receipts."""


@dataclass(frozen=True)
class OpenBase:
    """A base model with its open files."""

    path: LoadedPath
    blobs: Bundles
    table: TargetTable
    tensors: BaseTensors
    digests: dict[str, str]  # by tensor

    @property
    def name(self) -> str:
        """Its name in the registry."""
        return self.path.base.name


def open_base(registry: PoolRegistry, name: str, opened: ExitStack) -> OpenBase:
    """A base model; its files are read by range, and only when rows are needed that are not in memory.

    Raises:
        IntegrityError: the registry's description of it contradicts itself.
    """
    bundle = registry.bundle(name)
    blobs = opened.enter_context(closing(Bundles(registry.open_blob)))
    path = blobs.load(bundle, {})
    index = read_document(blobs, path.base.index)
    by_name = {file.path: file for file in path.base.files}
    sources = {file: open_source(blobs, by_name[file], opened) for file in weight_files(index)}
    stored = {name: (sources[one.file], one.entry) for name, one in stored_index(index).tensors.items()}
    plain = plain_of(index)
    tensors = stored if plain is None else plain_weights(plain, stored).tensors
    digests = {name: one["digest"] for name, one in index["tensors"].items()}
    return OpenBase(path, blobs, target_table(blobs, path.base), BaseTensors(tensors), digests)


def find_base(
    registry: PoolRegistry, model: nn.Module, asked: str | None, opened: ExitStack
) -> tuple[OpenBase, Layout]:
    """The base model whose weights a running model has, and where they are in it.

    Args:
        registry: with the base models.
        model: the running model.
        asked: the base model's name. None: the one that the receipt in the model's folder or its repo on the Hub names,
            if it has these weights; else the only one that has them.
        opened: closes its files.

    Raises:
        IntegrityError: ``wrong_base``: it is none of them.
        UsageError: ``unsupported_model``; several base models have all weights of the model.
    """
    reasons: list[str] = []

    def matching(names: Iterable[str]) -> dict[str, tuple[OpenBase, Layout]]:
        """Those of some base models that the model is, by the digest of their weights."""
        found: dict[str, tuple[OpenBase, Layout]] = {}
        for name in names:
            with ExitStack() as trial:
                base = open_base(registry, name, trial)
                if base.path.base.digest in found:
                    continue
                try:
                    layout = lay_out(model, base.table)
                    _check_same(layout, base)
                except OtherModelError as problem:
                    reasons.append(f"{name}: {problem}")
                    continue
                found[base.path.base.digest] = base, layout
                opened.push(trial.pop_all())
        return found

    bases = registry.bases() if asked is None else ()
    named = [one.name for one in bases if _names(model, one)] if asked is None else [asked]
    found = matching(named) or matching(one.name for one in bases if one.name not in named)
    if len(found) > 1:
        names = ", ".join(base.name for base, _ in found.values())
        raise UsageError(f"Several base models have all weights of this model: {names}. Say which by `base`.")
    if not found:
        said = "; ".join(reasons[:3]) or "it has none"
        raise IntegrityError(
            f"The model's weights are not those of a base model of this registry ({said}). Load the base model as it "
            "was added, without adapters and not trained further, in bf16, fp16 or fp32.",
            code="wrong_base",
        )
    return next(iter(found.values()))


def _names(model: nn.Module, base: BaseSummary) -> bool:
    """Whether the model's record of what it was loaded from names this base model."""
    said = getattr(model, "name_or_path", None)
    if not isinstance(said, str) or not said:
        return False
    try:
        return read_receipt(Path(said)).base == base.name
    except RegistryError:  # no folder that was fetched: a folder of files, or a repo of the Hub
        return (base.source or "").startswith(f"hf:{said}@")


def _check_same(layout: Layout, base: OpenBase) -> None:
    """Compare every tensor of the model that the base has; raises `OtherModelError`."""
    seen: set[tuple[str, str]] = set()
    work: list[tuple[LiveTensor, Place]] = []
    for tensor in layout.values():
        for place in tensor.places:
            if place.origin is not None and (tensor.first, repr((place.origin, place.cut))) not in seen:
                seen.add((tensor.first, repr((place.origin, place.cut))))
                work.append((tensor, place))
    for place, same in in_order(lambda one: (one[1], _is_same(one[0].get(), one[1], base)), work):
        if not same:
            raise OtherModelError(f"{place.tensor!r} holds other values")


def _is_same(live: torch.Tensor, place: Place, base: OpenBase) -> bool:
    slot = place.origin
    if slot is None:
        raise AssertionError("only what the base has is compared with it")
    entries = [base.tensors.entry(run.tensor) for run in slot.places]
    whole = place.cut is None and not slot.runs and slot.rows * slot.columns == entries[0].elements
    if whole and live.dtype == TORCH.get(entries[0].dtype):
        return PREFIX + hashlib.sha256(_bytes_of(live)).hexdigest() == base.digests[slot.tensor]
    read, step = base.tensors.rows(slot), block_rows(slot.rows, slot.columns)
    return all(
        _same_bits(place.matrix(live, at, min(at + step, slot.rows)), read(at, min(at + step, slot.rows)))
        for at in range(0, slot.rows, step)
    )


def _bytes_of(live: torch.Tensor) -> memoryview:
    """The bytes of a tensor in the order of its elements."""
    return live.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data


def _same_bits(live: torch.Tensor, stored: torch.Tensor) -> bool:
    cast = torch.empty(stored.shape, dtype=live.dtype)
    round_into(cast, stored)
    return torch.equal(cast.view(torch.uint8), live.contiguous().view(torch.uint8))
