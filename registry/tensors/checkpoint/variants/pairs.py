"""The plain pair: A and B of a linear module, of transformers' Conv1D, or of an embedding (Hu et al. 2021).

Oriented (out x in) the weight changes by s B A; s is alpha / r, or alpha / sqrt(r) with rsLoRA.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from registry.errors import InvalidAdapterError
from registry.files.header import TensorEntry
from registry.files.strict_json import shown
from registry.tensors.checkpoint.adapter import LoraPair
from registry.tensors.checkpoint.field_rules import (
    boolean,
    layer_numbers,
    module_names,
    number,
    one_or_more_strings,
    patterns,
    rank,
)
from registry.tensors.checkpoint.fit import as_folded, check_factors, check_orientation, resolve
from registry.tensors.checkpoint.variants.block_diagonal import blocks_of
from registry.tensors.checkpoint.variants.draft import Draft
from registry.tensors.checkpoint.variants.variant import Variant
from registry.tensors.table.tensor_names import is_square_guess, kept_transposed

A: Final[str] = "lora_A.weight"
B: Final[str] = "lora_B.weight"
EMBEDDING_A: Final[str] = "lora_embedding_A"
EMBEDDING_B: Final[str] = "lora_embedding_B"
PAIRS: Final = ((A, B), (EMBEDDING_A, EMBEDDING_B))


def check_whole(module: str, found: Mapping[str, TensorEntry]) -> None:
    """Refuse half a pair, and two pairs of one module.

    Raises:
        InvalidAdapterError: ``incomplete_pair`` or ``unexpected_tensor``, naming the module.
    """
    for first, second in PAIRS:
        if (first in found) is not (second in found):
            there, missing = (first, second) if first in found else (second, first)
            raise InvalidAdapterError(
                f"Module {shown(module)} has {there} but no {missing}: a pair needs both. Save the adapter again.",
                code="incomplete_pair",
            )
    if A in found and EMBEDDING_A in found:
        raise InvalidAdapterError(
            f"Module {shown(module)} has the pair of a linear module and that of an embedding; only one is allowed.",
            code="unexpected_tensor",
        )


def take_pair(draft: Draft, module: str, parts: tuple[str, str] = (A, B)) -> tuple[TensorEntry, TensorEntry]:
    """Claim both factors of a module; `check_whole` has seen that they are there."""
    a, b = draft.take(module, parts[0]), draft.take(module, parts[1])
    if a is None or b is None:
        raise AssertionError(f"half a pair of {module} has got by")
    return a, b


def fold(draft: Draft) -> None:
    """The pairs of all modules that no other variant has claimed."""
    flag = bool(draft.config.values.get("fan_in_fan_out"))
    transposed = kept_transposed(draft.table)
    assumed: list[str] = []
    for parts in PAIRS:
        for name in list(draft.having(parts[0])):
            target = as_folded(name, resolve(name, draft.table), embedding=parts[0] == EMBEDDING_A, table=draft.table)
            check_orientation(target, draft.table, flag=flag, transposed=transposed)
            if is_square_guess(target, draft.table):
                assumed.append(name)
            blocks = blocks_of(draft.config, name, target)
            a, b = take_pair(draft, name, parts)
            found = check_factors(name, target, a, b, *blocks)
            alpha, scaling = draft.scaled(name, found, a)
            pair = LoraPair(target.module, target, a, b, found, alpha, scaling, blocks_a=blocks[0], blocks_b=blocks[1])
            draft.add_pair(name, pair)
    if assumed:
        more = f" and {len(assumed) - 1} more modules" if len(assumed) > 1 else ""
        draft.notices.append(
            f"{shown(assumed[0])}{more}: the base's files do not show which way a square weight is stored; (out, in) "
            "is assumed. If the model stores it (in, out), say so in the base folder's registry.json."
        )


VARIANT: Final = Variant(
    "pairs",
    fields={
        "r": rank,
        "lora_alpha": number,
        "use_rslora": boolean,
        "rank_pattern": patterns(rank),
        "alpha_pattern": patterns(number),
        "target_modules": module_names,
        "exclude_modules": module_names,
        "layers_to_transform": layer_numbers,
        "layers_pattern": one_or_more_strings,
    },
    tails={part: part for pair in PAIRS for part in pair},
    fold=fold,
)
