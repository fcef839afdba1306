"""Pairs on modules that are not linear: convolutions, and nn.MultiheadAttention.

Of a convolution the pair is two convolutions, of the module's own kernel and of a kernel of ones. W is (out, in / g,
k...), A (r, in, k...), B (out, r / g, 1...). For g = 1 the product is a kernel again: flattened to (out x in k) it is s
B A. A is dense over all inputs whatever g is, so for g > 1 the product has no place in W. PEFT makes A without the
module's dilation and padding mode (up to 0.21.2), so with them it is no change of W either.

nn.MultiheadAttention has one pair on ``in_proj_weight`` (3 E, E), and one on the output projection inside. PEFT names
the first like any pair of the module X, the other ``X.base_layer.out_proj``; both have the rank and alpha of X. PEFT up
to 0.21.2 adds the second delta twice, in training as in merging (huggingface/peft #3774), so the function that was
trained has twice the scaling on it. A pair on ``X.out_proj`` itself is never used by PEFT's forward.
"""

from __future__ import annotations

from typing import Final

from registry.errors import InvalidAdapterError
from registry.files.header import TensorEntry
from registry.files.strict_json import shown
from registry.tensors.checkpoint.adapter import LoraPair, PeftVersion
from registry.tensors.checkpoint.fit import check_factors, check_kept, meant, resolve
from registry.tensors.checkpoint.variants.draft import Draft, Variant
from registry.tensors.checkpoint.variants.pairs import A, B, take_pair
from registry.tensors.table.targets import Target, TargetKind

INNER: Final = ".base_layer.out_proj"
LAST_DOUBLED: Final = PeftVersion(0, 21, 2)


def fold_attention(draft: Draft) -> None:
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
        _add_projection(draft, name, name, target, 1.0)
        inner = name + INNER
        if A not in draft.parts.get(inner, {}):
            raise InvalidAdapterError(
                f"Module {shown(name)} is an nn.MultiheadAttention; it has a pair for in_proj but none for its output "
                f"projection ({inner}.{A}). Save the adapter again.",
                code="incomplete_pair",
            )
        _add_projection(draft, inner, name, resolve(f"{target.module}.out_proj", draft.table), _times(draft, name))
        doubled.append(name)
    if doubled and _times(draft, doubled[0]) == 2.0:
        more = f" and {len(doubled) - 1} more" if len(doubled) > 1 else ""
        draft.notices.append(
            f"{shown(doubled[0])}{more}: PEFT {draft.config.peft_version} adds the change of out_proj twice in "
            "training, so its scaling is doubled here."
        )
    _leave_out_unused(draft)


def _add_projection(draft: Draft, module: str, name: str, target: Target, times: float) -> None:
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
        if target is not None and draft.table.attention_of(target.module) is not None:
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


ATTENTION: Final = Variant("attention", fold=fold_attention)


def fold_convolution(draft: Draft) -> None:
    """The pairs of all convolutions."""
    assumed: list[str] = []
    for name in list(draft.having(A)):
        target = meant(name, draft.table)
        if target is None or target.kind is not TargetKind.CONV:
            continue
        check_kept(name, target)
        a, b = take_pair(draft, name)
        _check_geometry(name, target, a)
        rank = _check_shapes(target, a, b)
        alpha, scaling = draft.scaled(name, rank, a)
        draft.add_pair(name, LoraPair(target.module, target, a, b, rank, alpha, scaling))
        if not {"dilation", "padding_mode"} <= set(target.geometry) and any(size > 1 for size in target.shape[2:]):
            assumed.append(name)
    if assumed:
        more = f" and {len(assumed) - 1} more convolutions" if len(assumed) > 1 else ""
        draft.notices.append(
            f"{shown(assumed[0])}{more}: the base's files do not record dilation and padding mode; 1 and zeros are "
            "assumed. If they differ, say so in the base folder's registry.json."
        )


def _refuse_convolution(name: str, why: str) -> InvalidAdapterError:
    return InvalidAdapterError(
        f"Module {shown(name)} is a convolution with {why}. Train without that module.", code="not_mergeable"
    )


def _check_geometry(name: str, target: Target, a: TensorEntry) -> None:
    inputs = target.shape[1]
    groups = target.geometry.get("groups")
    if groups is None and len(a.shape) == len(target.shape) and inputs and a.shape[1] % inputs == 0:
        groups = a.shape[1] // inputs
    if groups is not None and groups > 1:
        raise _refuse_convolution(
            name,
            f"{groups} groups: the product of its pair is a kernel over all inputs, which a grouped kernel can't hold",
        )
    if all(size == 1 for size in target.shape[2:]):
        return
    dilation = target.geometry.get("dilation", ())
    if any(step > 1 for step in ([dilation] if isinstance(dilation, int) else dilation)):
        raise _refuse_convolution(
            name, f"dilation {dilation}: PEFT makes its lora_A without it, which no change of the kernel can do"
        )
    padding = target.geometry.get("padding_mode", "zeros")
    if padding != "zeros":
        raise _refuse_convolution(
            name,
            f"padding mode {shown(padding)}: PEFT makes its lora_A with zeros, which no change of the kernel can do",
        )


def _check_shapes(target: Target, a: TensorEntry, b: TensorEntry) -> int:
    out, inputs, *kernel = target.shape
    ones = (1,) * len(kernel)
    for entry, fits, expected in (
        (a, a.shape[1:] == (inputs, *kernel), f"(rank, {', '.join(map(str, (inputs, *kernel)))})"),
        (b, b.shape[:1] == (out,) and b.shape[2:] == ones and len(b.shape) == len(target.shape),
         f"({out}, rank, {', '.join(map(str, ones))})"),
    ):  # fmt: skip
        if not fits:
            raise InvalidAdapterError(
                f"Tensor {shown(entry.name)} has shape {entry.shape}, expected {expected}: module "
                f"{shown(target.module)} of the base model is a convolution stored as {target.shape}. Publish it under "
                "the base model that it was trained on.",
                code="shape_mismatch",
            )
    if a.shape[0] != b.shape[1]:
        raise InvalidAdapterError(
            f"The pair of {shown(target.module)} has rank {a.shape[0]} in A and {b.shape[1]} in B; they must be equal.",
            code="rank_mismatch",
        )
    return a.shape[0]


CONVOLUTION: Final = Variant("convolution", fold=fold_convolution)
