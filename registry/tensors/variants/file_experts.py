"""Modules that a newer transformers fused: adapters trained with transformers 4 name each expert's own projection.

Their names are those of the base's files (``...experts.3.w1``), so each is a pair on a piece of the fused parameter.
"""

from __future__ import annotations

from typing import Final

from registry.errors import InvalidAdapterError
from registry.tensors.adapter import LoraPair
from registry.tensors.coverage import is_all_linear, name_test, sure_test
from registry.tensors.fit import check_factors
from registry.tensors.strict_json import shown
from registry.tensors.targets import FusedParameter, Piece, Target, TargetKind, TargetTable
from registry.tensors.variants.draft import Draft
from registry.tensors.variants.pairs import A, take_pair
from registry.tensors.variants.variant import Variant

_WEIGHT: Final = ".weight"

Found = tuple[Target, FusedParameter, Piece]


def file_modules(table: TargetTable) -> dict[str, Found]:
    """Name of a module in the files -> the piece of a fused parameter that it is."""
    return {
        piece.tensor.removesuffix(_WEIGHT): (target, fused, piece)
        for target in table.targets.values()
        for fused in target.fused
        for piece in fused.pieces
        if piece.tensor.endswith(_WEIGHT) and piece.matrix == 0
    }


def fold(draft: Draft) -> None:
    """The pairs of all modules that only the files know."""
    unknown = [name for name in draft.having(A) if draft.table.find(name) is None]
    if not unknown:
        return
    pieces = file_modules(draft.table)
    tensors = {target.tensor: target for target in draft.table.targets.values() if target.tensor is not None}
    seen = False
    for name in unknown:
        for spelled in _spellings(name, draft.table.prefix):
            if spelled in pieces:
                _add_piece(draft, name, spelled, *pieces[spelled])
                seen = True
                break
            if spelled + _WEIGHT in tensors:
                _add_renamed(draft, name, tensors[spelled + _WEIGHT])
                break
    if seen:
        _check_all_there(draft, pieces)


def _spellings(name: str, prefix: str) -> list[str]:
    if not prefix:
        return [name]
    lead = prefix + "."
    return [name, name[len(lead) :] if name.startswith(lead) else lead + name]


def _add_piece(draft: Draft, name: str, spelled: str, target: Target, fused: FusedParameter, piece: Piece) -> None:
    a, b = take_pair(draft, name)
    shape = (piece.out[1] - piece.out[0], fused.in_features)
    kind = TargetKind.CONV1D if piece.transposed else TargetKind.LINEAR
    reading = Target(spelled, kind, piece.tensor, shape[::-1] if piece.transposed else shape)
    rank = check_factors(name, reading, a, b)
    alpha, scaling = draft.scaled(name, rank, a)
    draft.add_pair(
        name, LoraPair(spelled, target, a, b, rank, alpha, scaling, fused=fused, piece=piece), by_module=False
    )


def _add_renamed(draft: Draft, name: str, target: Target) -> None:
    """A module that has another name now, such as the router: it was linear, and its weight is the same."""
    if len(target.shape) != 2 or target.transposed:
        return
    a, b = take_pair(draft, name)
    rank = check_factors(name, target, a, b)
    alpha, scaling = draft.scaled(name, rank, a)
    module = target.module if target.kind is TargetKind.LINEAR else f"{target.module}{_WEIGHT}"
    parameter = "" if target.kind is TargetKind.LINEAR else "weight"
    draft.add_pair(name, LoraPair(module, target, a, b, rank, alpha, scaling, parameter=parameter), by_module=False)


def _check_all_there(draft: Draft, pieces: dict[str, Found]) -> None:
    """An adapter that names experts of the files one by one has to name all that its configuration targets."""
    config = draft.config
    if not config.target_modules or is_all_linear(config):
        return
    test = name_test(config, draft.budget)
    surely = sure_test(config, draft.table, list(draft.pairs))
    missing = [name for name in pieces if name not in draft.pairs and test(name) and surely(name)]
    if missing:
        raise InvalidAdapterError(
            f"The configuration targets {shown(missing[0])}"
            f"{f' and {len(missing) - 1} more' if len(missing) > 1 else ''}, for which the adapter has no tensors. "
            "Save it again, or correct target_modules.",
            code="incomplete_adapter",
        )


VARIANT: Final = Variant("experts by file", fold=fold)
