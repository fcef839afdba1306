"""Tied weights: two modules, one weight (``tie_word_embeddings``).

A pair or a value on one side changes that side alone, and the two come apart when the path is merged. With
``ensure_weight_tying`` PEFT trains one change for both and saves it twice, as the pair of an embedding and as that of a
linear module, transposed: it is kept once, on the embedding.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from registry.errors import InvalidAdapterError
from registry.files.strict_json import shown
from registry.tensors.checkpoint.adapter import LoraPair, Twin
from registry.tensors.checkpoint.field_rules import boolean
from registry.tensors.checkpoint.variants.draft import Draft
from registry.tensors.checkpoint.variants.variant import Variant
from registry.tensors.table.targets import TargetKind

_TIED_BY_PEFT: Final = ("embed_tokens", "lm_head")
"""The leaf names for which PEFT looks when it is asked to ensure ties (``EMBEDDING_LAYER_NAMES``)."""


def fold(draft: Draft) -> None:
    """Bring what was trained as one into one, and tell what comes apart."""
    groups = {draft.table.tie_group(module) for module, target in draft.table.targets.items() if target.tie is not None}
    for group in sorted(groups):
        if draft.config.values.get("ensure_weight_tying"):
            _tie(draft, group)
        _tell_apart(draft, group)


def _tie(draft: Draft, group: tuple[str, ...]) -> None:
    embeddings = [module for module in group if draft.table.targets[module].kind is TargetKind.EMBEDDING]
    for other in group:
        if embeddings and other not in embeddings:
            _tie_pairs(draft, embeddings[0], other)
            _tie_values(draft, embeddings[0], other)


def _tell_apart(draft: Draft, group: tuple[str, ...]) -> None:
    """A change that is not of all modules of a group: the merged model keeps a weight for each."""
    alone = sorted(
        {pair.target.module for pair in draft.pairs.values() if not pair.tied}.intersection(group)
        | {module for module in group if _is_alone(draft, module)}
    )
    if alone:
        others = ", ".join(shown(module) for module in group if module != alone[0])
        draft.notices.append(
            f"{shown(alone[0])} shares its weight with {others}, but this adapter does not change them in the same "
            "way: they are untied in a merged model, which sets tie_word_embeddings=false."
        )


def _is_alone(draft: Draft, module: str) -> bool:
    value, rows = draft.values.get(f"{module}.weight"), draft.tokens.get(module)
    return (value is not None and not value.tied) or (rows is not None and not rows.tied)


def _tie_pairs(draft: Draft, module: str, other: str) -> None:
    one, two = draft.pairs.get(module), draft.pairs.get(other)
    if one is None or two is None:
        _refuse_half(draft, module, other, one is not None, two is not None)
        return
    draft.implied.add(other)
    if one.magnitude is not None or two.magnitude is not None:
        return  # DoRA has a magnitude for each side, so the sides differ although the factors are one
    if one.scaling != two.scaling or not _transposed(one, two):
        raise InvalidAdapterError(
            f"adapter_config.json: ensure_weight_tying is true, but the pairs of {shown(module)} and {shown(other)} "
            f"differ: scaling {one.scaling:g} and {two.scaling:g}, A {one.a.shape} and {two.a.shape}. Save the adapter "
            "again, or set the field to false.",
            code="tied_partial",
        )
    draft.twins += [Twin(one.a, two.b, transposed=True), Twin(one.b, two.a, transposed=True)]
    draft.pairs[module] = replace(one, tied=True)
    del draft.pairs[other]


def _transposed(one: LoraPair, two: LoraPair) -> bool:
    return one.a.shape == two.b.shape[::-1] and one.b.shape == two.a.shape[::-1]


def _tie_values(draft: Draft, module: str, other: str) -> None:
    names = f"{module}.weight", f"{other}.weight"
    one, two = draft.values.get(names[0]), draft.values.get(names[1])
    if one is None or two is None:
        _refuse_half(draft, module, other, one is not None, two is not None)
        return
    draft.twins.append(Twin(one.entry, two.entry))
    draft.values[names[0]] = replace(one, tied=True)
    del draft.values[names[1]]


def _refuse_half(draft: Draft, module: str, other: str, has: bool, other_has: bool) -> None:
    """One side alone: with PEFT's names for embeddings the file is not whole, with others PEFT did not tie them."""
    if has is other_has:
        return
    there, missing = (module, other) if has else (other, module)
    if there.rpartition(".")[2] in _TIED_BY_PEFT:
        raise InvalidAdapterError(
            f"adapter_config.json: ensure_weight_tying is true, but the adapter has tensors for {shown(there)} and "
            f"none for {shown(missing)}, which shares its weight. Save the adapter again, or set the field to false.",
            code="tied_partial",
        )
    draft.notices.append(
        f"ensure_weight_tying is set, but PEFT ties only modules called {' and '.join(_TIED_BY_PEFT)}: the change of "
        f"{shown(there)} is not that of {shown(missing)}."
    )


VARIANT: Final = Variant("ties", fields={"ensure_weight_tying": boolean}, fold=fold)
