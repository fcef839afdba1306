"""Modules that a newer transformers fused: adapters trained with transformers 4 name each expert's own projection.

Their names are those of the base's files (``...experts.3.w1``), so each is a pair on a piece of the fused parameter.
Their router was linear, too; today it is a module of its own that holds the same weight.
"""

from __future__ import annotations

from typing import Final

from registry.errors import InvalidAdapterError
from registry.files.strict_json import shown
from registry.tensors.checkpoint.adapter import LoraPair
from registry.tensors.checkpoint.coverage import is_all_linear, name_test, sure_test
from registry.tensors.checkpoint.fit import check_factors, meant
from registry.tensors.checkpoint.variants.draft import Draft
from registry.tensors.checkpoint.variants.pairs import A, take_pair
from registry.tensors.checkpoint.variants.variant import Variant
from registry.tensors.table.held import FusedParameter, Piece
from registry.tensors.table.targets import Target, TargetKind, TargetTable

_WEIGHT: Final = ".weight"
_ROUTERS: Final = ("gate", "router")


def fold(draft: Draft) -> None:
    """The pairs of all modules that only the files know, and of routers."""
    for name in list(draft.having(A)):
        target = meant(name, draft.table)
        if target is not None:
            if _is_router(target, draft.table):
                _add_router(draft, name, target)
            continue
        found = draft.table.find_file_module(name)
        if found is not None and found.parameter is not None and found.piece is not None:
            _add_piece(draft, name, found.target, found.parameter, found.piece)


def _add_piece(draft: Draft, name: str, target: Target, fused: FusedParameter, piece: Piece) -> None:
    a, b = take_pair(draft, name)
    spelled = piece.tensor.removesuffix(_WEIGHT)
    shape = (piece.out[1] - piece.out[0], fused.in_features)
    kind = TargetKind.CONV1D if piece.transposed else TargetKind.LINEAR
    reading = Target(spelled, kind, piece.tensor, shape[::-1] if piece.transposed else shape)
    rank = check_factors(name, reading, a, b)
    alpha, scaling = draft.scaled(name, rank, a)
    pair = LoraPair(spelled, target, a, b, rank, alpha, scaling, fused=fused, piece=piece)
    draft.add_pair(name, pair, by_module=False, by_file=True)


def _is_router(target: Target, table: TargetTable) -> bool:
    """A gate beside experts that is no linear module any more: PEFT reads its pair as that of its weight."""
    parent, _, leaf = target.module.rpartition(".")
    experts = table.targets.get(f"{parent}.experts")
    return (
        target.kind is TargetKind.UNKNOWN
        and leaf in _ROUTERS
        and len(target.shape) == 2
        and target.tensor is not None
        and experts is not None
        and experts.kind is TargetKind.EXPERTS
    )


def _add_router(draft: Draft, name: str, target: Target) -> None:
    a, b = take_pair(draft, name)
    rank = check_factors(name, target, a, b)
    alpha, scaling = draft.scaled(name, rank, a)
    pair = LoraPair(f"{target.module}{_WEIGHT}", target, a, b, rank, alpha, scaling, parameter="weight")
    draft.add_pair(name, pair, by_module=False, by_file=True)


def finish(draft: Draft) -> None:
    """An adapter that names experts of the files one by one has to name all that its configuration targets."""
    config = draft.config
    by_file = any(pair.piece is not None for pair in draft.pairs.values())
    if not by_file or not config.target_modules or is_all_linear(config):
        return
    test = name_test(config, draft.budget)
    surely = sure_test(config, draft.table, list(draft.pairs))
    missing = [name for name in _file_modules(draft.table) if name not in draft.pairs and test(name) and surely(name)]
    if missing:
        raise InvalidAdapterError(
            f"The configuration targets {shown(missing[0])}"
            f"{f' and {len(missing) - 1} more' if len(missing) > 1 else ''}, for which the adapter has no tensors. "
            "Save it again, or correct target_modules.",
            code="incomplete_adapter",
        )


def _file_modules(table: TargetTable) -> list[str]:
    """Names of the modules in the files that are pieces of fused parameters."""
    return [
        piece.tensor.removesuffix(_WEIGHT)
        for target in table.targets.values()
        for fused in target.fused
        for piece in fused.pieces
        if piece.tensor.endswith(_WEIGHT) and piece.matrix == 0
    ]


VARIANT: Final = Variant("experts by file", fold=fold, finish=finish)
