"""Frobenius norms of a base model's weights, by slot: the reference for relative figures of deltas.

They are computed while the bytes of an added base model pass by, and stored in the database: no blob and no digest
contains them. A base model that was added by a version without them, or whose target table was rebuilt, has none until
they are measured, which reads its weights once.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack
from typing import Any, Final

from registry.catalogue.changes.new_base import keep
from registry.catalogue.tree import bases as rows
from registry.catalogue.tree.bases import NormsRow
from registry.errors import IntegrityError, UnavailableError, UsageError
from registry.files.header import Header, read_model_header
from registry.files.source import ByteSource
from registry.files.strict_json import shown
from registry.progress import Progress
from registry.reference import Path, Reference
from registry.schemas import BaseMeasured
from registry.schemas.requests import MeasureBaseRequest
from registry.services.artifacts.load import load_path
from registry.services.bases.decoded import decoded
from registry.services.deployment import Deployment
from registry.tensors.arithmetic.streamed import EnergyWatch, RowEnergies, pass_by
from registry.tensors.lineage.paths import PathBase, read_document, target_table
from registry.tensors.table.parameters import Run
from registry.tensors.table.slots import Slot, norms_of_slots
from registry.tensors.table.targets import TargetTable
from registry.transfer.index import plain_of, stored_index, weight_files

NORMS_FORMAT: Final = 1
"""The format of documents, and how norms are computed: those of another format are measured again."""


def measure(deployment: Deployment, request: MeasureBaseRequest, progress: Progress) -> BaseMeasured:
    """Compute the norms of a base model that has none; see `registry.operations.registry.Registry.measure_base`.

    Raises:
        NotFoundError: no base model has this name.
        UsageError: the name is the path of an adapter.
        What `take_norms` raises.
    """
    path = Path.parse(request.base)
    if not path.is_base:
        raise UsageError(f"{request.base} is the path of an adapter: only base models are measured, here {path.base}.")
    base = load_path(deployment, Reference(path)).base
    there = slot_norms(deployment, base)
    norms = take_norms(deployment, base, progress) if there is None else there
    return BaseMeasured(base=base.name, table_digest=base.table_digest, norms=len(norms), measured=there is None)


def slot_norms(deployment: Deployment, base: PathBase) -> Mapping[Slot, float] | None:
    """The norms of a base model's slots, those that `registry.tensors.path.programs.Program.origin` may be.

    A slot is left out if a value of it is not finite. None: they were not taken for its target table.
    """
    with deployment.read() as session:
        row = rows.norms_of(session, base.name, base.digest, base.table_digest)
    return None if row is None or row.format != NORMS_FORMAT else _read(row.document)


def take_norms(deployment: Deployment, base: PathBase, progress: Progress) -> Mapping[Slot, float]:
    """Read the weights of a stored base model once, and store the norms of its slots.

    Raises:
        IntegrityError: a file is damaged.
        UnavailableError: ``busy``, its target table was rebuilt or it was deleted meanwhile.
    """
    document = read_document(deployment, base.index)
    wanted = set(weight_files(document))
    files = [file for file in base.files if file.path in wanted]
    progress.begin(f"Measuring the weights of {base.name}", sum(file.size for file in files))
    watches = {}
    with ExitStack() as opened:
        sources: dict[str, ByteSource] = {}
        for file in files:
            sources[file.path] = source = opened.enter_context(deployment.open_blob(file))
            entries = read_model_header(source, file.path, error=IntegrityError).entries
            watches[file.path] = EnergyWatch(entries)
            pass_by(source, watches[file.path], progress.advance)
        energies = energies_of(watches)
        plain = plain_of(document)
        if plain is not None:
            _, energies = decoded(stored_index(document), plain, (), sources, energies, progress)
    norms = norms_of_slots(target_table(deployment, base), energies)
    row = NormsRow(NORMS_FORMAT, base.table_digest, _written(norms))
    if not deployment.change(lambda session: keep(session, base.name, base.digest, row)):
        raise UnavailableError(
            f"{base.name} was deleted, or its target table rebuilt, while it was measured: run the command again.",
            code="busy",
        )
    return norms


def watches_of(headers: Mapping[str, Header]) -> dict[str, EnergyWatch]:
    """What has to see the bytes of each weight file of a base model that is added, for `norms_row`."""
    return {path: EnergyWatch(header.entries) for path, header in headers.items()}


def not_finite(watches: Mapping[str, EnergyWatch], tensors: Collection[str]) -> dict[str, list[int]]:
    """Those of some tensors with NaN or infinity, and their rows, of a base model whose weight files have passed by."""
    found = (one for watch in watches.values() for one in sorted(watch.not_finite().items()))
    return {name: bad for name, bad in found if name in tensors}


def not_finite_notices(index: Mapping[str, Any]) -> Iterator[str]:
    """A sentence for each such tensor, from the document of a base model's index."""
    for name, bad in index.get("not_finite", {}).items():
        more = f" and {len(bad) - 1} more" if len(bad) > 1 else ""
        yield (
            f"{shown(name)} contains NaN or infinity, in row {bad[0]}{more} of {index['tensors'][name]['shape']}: "
            "adapters that change it are refused."
        )


def energies_of(watches: Mapping[str, EnergyWatch]) -> dict[str, RowEnergies]:
    """The energies of the tensors of weight files that have passed by, by tensor."""
    return {name: rows for watch in watches.values() for name, rows in watch.tensors.items()}


def norms_row(table: TargetTable, energies: Mapping[str, RowEnergies]) -> NormsRow:
    """The norms of a base model, by the energies of its tensors."""
    return NormsRow(NORMS_FORMAT, table.digest, _written(norms_of_slots(table, energies)))


def _written(norms: Mapping[Slot, float]) -> bytes:
    """A list for each slot: a base model with many experts has tens of thousands of them."""
    slots = [
        [slot.tensor, slot.first, slot.rows, slot.columns, norm, *map(_run_document, slot.runs)]
        for slot, norm in norms.items()
    ]
    return zlib.compress(json.dumps({"slots": slots}, separators=(",", ":"), allow_nan=False).encode("utf-8"))


def _run_document(run: Run) -> list[Any]:
    return [run.tensor, run.first, run.rows, *run.grid]


def _read(document: bytes) -> dict[Slot, float]:
    return {
        Slot(tensor, first, rows, columns, runs=tuple(map(_run_from, runs))): norm
        for tensor, first, rows, columns, norm, *runs in json.loads(zlib.decompress(document))["slots"]
    }


def _run_from(document: Sequence[Any]) -> Run:
    tensor, first, rows, a, b = document
    return Run(tensor, first, rows, (a, b))
