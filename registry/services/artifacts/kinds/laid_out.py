"""How the weights of a merged model are laid out: as the base's files, or what a quantised base becomes.

A quantised base is written plain, with every weight decoded and rounded once; or mixed (``--dtype keep``), where what
the path changes is dense and everything else is as it is stored.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from registry.errors import UsageError
from registry.figures import size as size_text
from registry.files.model_weights import ModelWeights
from registry.quantised.listing import (
    QUANTISED_FILES,
    PlainListing,
    dense_with,
    mixed_files,
    plain_config,
    plain_dtype,
    skipping,
)
from registry.services.artifacts.inputs import Inputs
from registry.services.artifacts.kinds.builder import Order
from registry.tensors.arithmetic.dtypes import CONFIG_NAMES, OPTION_DTYPES
from registry.tensors.artifacts.merged import config_with_dtype
from registry.tensors.artifacts.requantised import Requantised, check_arrives, requantised
from registry.tensors.path.origins import BaseTensors
from registry.tensors.path.programs import PathPrograms
from registry.tensors.quantised.source import mixed_weights
from registry.tensors.table.targets import TargetKind, TargetTable
from registry.transfer.model_files import CONFIG, HF_QUANT, INDEX

KEEP: Final = "keep"
FP8: Final = "fp8"


@dataclass(frozen=True)
class Skipped:
    """Modules that a loader of a mixed model is not to convert."""

    dense: tuple[str, ...]  # that became dense
    others: tuple[str, ...]  # linear layers that always were


@dataclass(frozen=True)
class LaidOut:
    """The files of a merged model before its path.

    Attributes:
        weights: the weight files.
        values: what programs start from, and what is copied.
        dtype: of all float tensors, as in headers; None: each keeps its own.
        gone: files of the base model that the merged one does not have.
        plain: of a quantised base, whose index is made anew; None of another.
        skipped: of a mixed model.
        notices: for who fetches it.
        codes: of a model on the grid of its base's codes, whose files are laid out as the base's.
    """

    weights: ModelWeights
    values: BaseTensors
    dtype: str | None
    gone: frozenset[str] = frozenset()
    plain: PlainListing | None = None
    skipped: Skipped | None = None
    notices: tuple[str, ...] = ()
    codes: Requantised | None = None

    def rewrites(self, path: str) -> bool:
        """Whether a JSON file of the base says how it is quantised."""
        return self.plain is not None and path in (CONFIG, HF_QUANT)

    def rewritten(self, document: Mapping[str, Any]) -> dict[str, Any]:
        """Such a file of the merged model."""
        if self.skipped is not None:
            return skipping(document, self.skipped.dense, self.skipped.others)
        plain = plain_config(document)
        said = any(plain.get(key) is not None for key in ("dtype", "torch_dtype"))
        return plain if said else config_with_dtype(plain, plain_dtype(document))


def laid_out(order: Order, programs: PathPrograms) -> LaidOut:
    """Lay out the weights of a merged model.

    Args:
        order: the request for it.
        programs: what the path does.

    Raises:
        UsageError: `KEEP` or `FP8` of a base model that is not quantised.
        AccuracyError: ``not_representable``, too little would arrive on the grid of the codes.
    """
    inputs, dtype = order.inputs, order.options.dtype
    weights, plain = inputs.base_weights(), inputs.stored.plain
    if plain is None:
        if dtype in (KEEP, FP8):
            raise UsageError(
                f"--dtype {dtype} keeps what a quantised base model stores, and {inputs.path.base.name} is not "
                "quantised. Leave it out: every weight keeps its own dtype."
            )
        return LaidOut(weights, BaseTensors(weights.tensors), OPTION_DTYPES[dtype] if dtype else None)
    if dtype == FP8:
        return _on_codes(order, programs, plain, weights)
    changed = {run.tensor for slot in programs.programs for run in slot.places}
    dense = dense_with(changed, plain)
    stored = frozenset({*inputs.stored.headers, INDEX})
    if dtype == KEEP and len(dense) < len(plain.decoded):
        mixed = mixed_weights(plain, inputs.stored.tensors, mixed_files(plain, inputs.stored.headers, dense))
        values = BaseTensors({**weights.tensors, **mixed.tensors})
        skipped = Skipped(*_modules(inputs.table, plain, dense))
        return LaidOut(mixed, values, None, stored, plain, skipped, _mixed_notices(plain, dense, weights))
    gone = stored.union(QUANTISED_FILES)
    option = None if dtype in (None, KEEP) else OPTION_DTYPES[str(dtype)]
    notices = tuple(_plain_notices(inputs, weights, kept=dtype == KEEP))
    return LaidOut(weights, BaseTensors(weights.tensors), option, gone, plain, None, notices)


def _on_codes(order: Order, programs: PathPrograms, plain: PlainListing, weights: ModelWeights) -> LaidOut:
    """On the grid of the stored codes, in files laid out as the base's."""
    stored, path = order.inputs.stored, order.path
    base = BaseTensors(weights.tensors)
    wanted = {name: [one for _, one in many] for name, many in programs.placed().items() if name in plain.decoded}
    codes = requantised(order.plan.digest, plain, stored.tensors, base, wanted)
    check_arrives(codes, plain.kind, order.options.min_fidelity, path.reference)
    laid = mixed_weights(plain, stored.tensors, mixed_files(plain, stored.headers, ()))
    values = BaseTensors({**weights.tensors, **laid.tensors})
    return LaidOut(laid, values, None, frozenset(stored.headers), codes=codes, notices=tuple(_codes_notices(codes)))


def _codes_notices(codes: Requantised) -> Iterator[str]:
    found = codes.fidelity
    if found is not None and found.surviving_share is not None and found.relative_error is not None:
        yield (
            f"On the grid of the stored codes {found.surviving_share:.0%} of the path's change survives, with an error "
            f"of {found.relative_error:.2f} times the change. --dtype keep loses nothing."
        )


def _modules(table: TargetTable, plain: PlainListing, dense: frozenset[str]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The modules of dense tensors, as they run and as the files call them; and the other linear layers."""
    named = {name.removesuffix(".weight") for name in dense}
    others = set()
    for target in table.targets.values():
        tensors = {target.tensor, *(piece.tensor for fused in target.fused for piece in fused.pieces)}
        if tensors & dense:
            named.add(target.module)
        elif target.kind is TargetKind.LINEAR and target.tensor is not None and target.tensor not in plain.decoded:
            others.add(target.module)
    return tuple(sorted(named)), tuple(sorted(others))


def _mixed_notices(plain: PlainListing, dense: frozenset[str], weights: ModelWeights) -> tuple[str, ...]:
    size = sum(entry.stop - entry.start for name in dense for entry in (weights.tensors[name][1],))
    notice = (
        f"{len(dense)} of {len(plain.decoded)} quantised weights are written in {CONFIG_NAMES[plain.dtype]} "
        f"({size_text(size)}), because the path changes them or engines load them together with such; all others are "
        "byte for byte as they are stored."
    )
    return (notice,)


def _plain_notices(inputs: Inputs, weights: ModelWeights, *, kept: bool) -> Iterator[str]:
    stored = sum(source.size for source in {id(one): one for one, _ in inputs.stored.tensors.values()}.values())
    size = sum(_size(weights, path) for path in weights.headers)
    if kept:
        yield "The path changes every quantised weight, or one that engines load together with it: nothing is kept."
    yield (
        f"{inputs.path.base.name} is quantised: its weights are written plain, {size / max(1, stored):.1f} x the "
        "stored base. --dtype keep writes only what the path changes plain."
    )


def _size(weights: ModelWeights, path: str) -> int:
    """Bytes of a weight file in its plain dtype."""
    header = weights.headers[path]
    return max((entry.stop for entry in header.entries.values()), default=header.size)
