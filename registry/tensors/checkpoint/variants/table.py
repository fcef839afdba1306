"""The table of all variants, from which the rules of the configuration, the names of tensors and the checks come."""

from __future__ import annotations

from typing import Final

from registry.tensors.checkpoint.field_rules import Rule
from registry.tensors.checkpoint.variants.bias import BIASES
from registry.tensors.checkpoint.variants.draft import Variant
from registry.tensors.checkpoint.variants.experts import FILE_EXPERTS, PARAMETERS
from registry.tensors.checkpoint.variants.fields import (
    INITIALISATIONS,
    LORA_FILES,
    NO_EFFECT,
    NOT_WEIGHTS,
    OTHER_TUNERS,
    TRAINING_ONLY,
)
from registry.tensors.checkpoint.variants.layers import ATTENTION, CONVOLUTION
from registry.tensors.checkpoint.variants.pairs import BLOCK_DIAGONAL, DORA, PLAIN_PAIRS
from registry.tensors.checkpoint.variants.products import PRODUCTS
from registry.tensors.checkpoint.variants.saved_modules import SAVED_EMBEDDINGS, SAVED_MODULES
from registry.tensors.checkpoint.variants.token_rows import TIES, TOKEN_ROWS

VARIANTS: Final[tuple[Variant, ...]] = (
    # what can't be folded into weights comes first, so that the message names it and not what follows from it
    OTHER_TUNERS,
    LORA_FILES,
    NOT_WEIGHTS,
    INITIALISATIONS,
    TRAINING_ONLY,
    # products, which become pairs
    PRODUCTS,
    # pairs, by the sort of module; the last takes what the others left
    PARAMETERS,
    FILE_EXPERTS,
    ATTENTION,
    CONVOLUTION,
    BLOCK_DIAGONAL,
    PLAIN_PAIRS,
    # what belongs to a pair
    DORA,
    BIASES,
    # absolute values
    TOKEN_ROWS,
    SAVED_MODULES,
    SAVED_EMBEDDINGS,
    # what is said about all of it
    TIES,
    NO_EFFECT,
)
"""In the order in which fields are checked and tensors are folded."""

RULES: Final[dict[str, Rule]] = {name: rule for variant in VARIANTS for name, rule in variant.fields.items()}
"""Field of adapter_config.json -> its rule, in the order of the checks."""

TAILS: Final[dict[str, str]] = {tail: part for variant in VARIANTS for tail, part in variant.tails.items()}
"""End of a tensor's name -> the part of a module's adapter that it is."""
