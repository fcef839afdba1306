"""nn.MultiheadAttention: one pair on ``in_proj_weight`` (3 E, E), and one on the output projection inside.

PEFT names the first like any pair of the module X, the other ``X.base_layer.out_proj``; both have the rank and alpha of
X. PEFT up to 0.21.2 adds the second delta twice, in training as in merging (huggingface/peft #3774), so the function
that was trained has twice the scaling there. A pair on ``X.out_proj`` itself is never used by PEFT's forward.
"""

from __future__ import annotations

from typing import Final

from registry.errors import InvalidAdapterError
from registry.files.strict_json import shown
from registry.tensors.checkpoint.adapter import LoraPair
from registry.tensors.checkpoint.adapter_config import PeftVersion
from registry.tensors.checkpoint.fit import check_factors, check_kept, meant, resolve
from registry.tensors.checkpoint.variants.draft import Draft
from registry.tensors.checkpoint.variants.pairs import A, B, take_pair
from registry.tensors.checkpoint.variants.variant import Variant
from registry.tensors.table.targets import Target, TargetKind, TargetTable

INNER: Final = ".base_layer.out_proj"
LAST_DOUBLED: Final = PeftVersion(0, 21, 2)


def holder_of(module: str, table: TargetTable) -> Target | None:
    """The attention whose output projection the module is."""
    parent, _, leaf = module.rpartition(".")
    found = table.targets.get(parent)
    return found if leaf == "out_proj" and found is not None and found.kind is TargetKind.ATTENTION else None


def fold(draft: Draft) -> None:
    """The pairs of all attentions."""
    doubled: list[str] = []
    for name in list(draft.having(A)):
        target = meant(name, draft.table)
        if target is None or target.kind is not TargetKind.ATTENTION:
            continue
        if draft.config.use_dora:
            raise InvalidAdapterError(
                f"Module {shown(name)} is an nn.MultiheadAttention, and adapter_config.json sets use_dora: PEFT has no "
                "DoRA for it. Save the adapter again with the configuration that it was trained with.",
                code="bad_config",
            )
        _add(draft, name, name, target, 1.0)
        inner = name + INNER
        if A not in draft.parts.get(inner, {}):
            raise InvalidAdapterError(
                f"Module {shown(name)} is an nn.MultiheadAttention; it has a pair for in_proj but none for its output "
                f"projection ({inner}.{A}). Save the adapter again.",
                code="incomplete_pair",
            )
        _add(draft, inner, name, resolve(f"{target.module}.out_proj", draft.table), _times(draft, name))
        doubled.append(name)
    if doubled and _times(draft, doubled[0]) == 2.0:
        more = f" and {len(doubled) - 1} more" if len(doubled) > 1 else ""
        draft.notices.append(
            f"{shown(doubled[0])}{more}: PEFT {draft.config.peft_version} adds the change of out_proj twice in "
            "training, so its scaling is doubled here."
        )
    _leave_out_unused(draft)


def _add(draft: Draft, module: str, name: str, target: Target, times: float) -> None:
    check_kept(name, target)
    a, b = take_pair(draft, module)
    rank = check_factors(name, target, a, b)
    alpha, scaling = draft.scaled(name, rank, a)
    pair = LoraPair(target.module, target, a, b, rank, alpha * times, scaling * times)
    draft.add_pair(module, pair, by_module=module == name)


def _times(draft: Draft, name: str) -> float:
    version = draft.config.version
    if version is None or (not version.final and version > LAST_DOUBLED):
        raise InvalidAdapterError(
            f"adapter_config.json: peft_version is {shown(draft.config.peft_version)}; module {shown(name)} is an "
            f"nn.MultiheadAttention, and PEFT up to {LAST_DOUBLED} applies the change of its out_proj twice, so the "
            "released version that trained it has to be known. Add it.",
            code="bad_config",
        )
    return 2.0 if version <= LAST_DOUBLED else 1.0


def _leave_out_unused(draft: Draft) -> None:
    left_out = []
    for name in list(draft.having(A)):
        target = meant(name, draft.table)
        if target is not None and holder_of(target.module, draft.table) is not None:
            for part in list(draft.parts[name]):
                if part.startswith("lora_"):
                    draft.take(name, part)
            left_out.append(name)
    if left_out:
        more = f" and {len(left_out) - 1} more" if len(left_out) > 1 else ""
        draft.notices.append(
            f"{shown(left_out[0])}{more} lies in an nn.MultiheadAttention, whose forward does not use the pair that "
            f"PEFT puts there ({A}, {B}): it is ignored."
        )


VARIANT: Final = Variant("attention", fold=fold)
