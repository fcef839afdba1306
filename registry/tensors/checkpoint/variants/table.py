"""The table of all variants, from which the rules of the configuration, the names of tensors and the checks come."""

from __future__ import annotations

from typing import Final

from registry.tensors.checkpoint.field_rules import Rule
from registry.tensors.checkpoint.variants import (
    attention,
    bias,
    block_diagonal,
    convolution,
    dora,
    experts,
    file_experts,
    initialisations,
    no_effect,
    not_weights,
    other_tuners,
    pairs,
    saved_embeddings,
    saved_modules,
    ties,
    token_rows,
    training_only,
)
from registry.tensors.checkpoint.variants.variant import Variant

VARIANTS: Final[tuple[Variant, ...]] = (
    # what can't be folded into weights comes first, so that the message names it and not what follows from it
    other_tuners.VARIANT,
    not_weights.VARIANT,
    initialisations.VARIANT,
    training_only.VARIANT,
    # pairs, by the sort of module; the last takes what the others left
    experts.VARIANT,
    file_experts.VARIANT,
    attention.VARIANT,
    convolution.VARIANT,
    block_diagonal.VARIANT,
    pairs.VARIANT,
    # what stands beside a pair
    dora.VARIANT,
    bias.VARIANT,
    # absolute values
    token_rows.VARIANT,
    saved_modules.VARIANT,
    saved_embeddings.VARIANT,
    # what is said about all of it
    ties.VARIANT,
    no_effect.VARIANT,
)
"""In the order in which fields are checked and tensors are folded."""

RULES: Final[dict[str, Rule]] = {name: rule for variant in VARIANTS for name, rule in variant.fields.items()}
"""Field of adapter_config.json -> its rule, in the order of the checks."""

TAILS: Final[dict[str, str]] = {tail: part for variant in VARIANTS for tail, part in variant.tails.items()}
"""End of a tensor's name -> the part of a module's adapter that it is."""
