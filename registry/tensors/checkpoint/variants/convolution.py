"""Convolutions: the pair is two convolutions, of the module's own kernel and of a kernel of ones.

W is (out, in / g, k...), A (r, in, k...), B (out, r / g, 1...). For g = 1 the product is a kernel again: flattened to
(out x in k) it is s B A. A is dense over all inputs whatever g is, so for g > 1 the product has no place in W. PEFT
makes A without the module's dilation and padding mode (up to 0.21.2), so with them it is no change of W either.
"""

from __future__ import annotations

from typing import Final

from registry.errors import InvalidAdapterError
from registry.files.header import TensorEntry
from registry.files.strict_json import shown
from registry.tensors.checkpoint.adapter import LoraPair
from registry.tensors.checkpoint.fit import check_kept, meant
from registry.tensors.checkpoint.variants.draft import Draft
from registry.tensors.checkpoint.variants.pairs import A, take_pair
from registry.tensors.checkpoint.variants.variant import Variant
from registry.tensors.table.targets import Target, TargetKind


def fold(draft: Draft) -> None:
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


def _refuse(name: str, why: str) -> InvalidAdapterError:
    return InvalidAdapterError(
        f"Module {shown(name)} is a convolution with {why}. Train without that module.", code="not_mergeable"
    )


def _check_geometry(name: str, target: Target, a: TensorEntry) -> None:
    inputs = target.shape[1]
    groups = target.geometry.get("groups")
    if groups is None and len(a.shape) == len(target.shape) and inputs and a.shape[1] % inputs == 0:
        groups = a.shape[1] // inputs
    if groups is not None and groups > 1:
        raise _refuse(
            name,
            f"{groups} groups: the product of its pair is a kernel over all inputs, which a grouped kernel can't hold",
        )
    if all(size == 1 for size in target.shape[2:]):
        return
    dilation = target.geometry.get("dilation", ())
    if any(step > 1 for step in ([dilation] if isinstance(dilation, int) else dilation)):
        raise _refuse(
            name, f"dilation {dilation}: PEFT makes its lora_A without it, which no change of the kernel can do"
        )
    padding = target.geometry.get("padding_mode", "zeros")
    if padding != "zeros":
        raise _refuse(
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


VARIANT: Final = Variant("convolution", fold=fold)
