"""What diffusers writes into the header of a LoRA file: PEFT's configuration of each component that it changes.

A file of one component has PEFT's configuration, patterns and all. Of several components each has its own, where one
adapter_config.json can say one thing of all: rank and alpha are looked up for each module, and what else they say has
to be the same. Source: diffusers 0.42 (``utils/peft_utils``, ``loaders/lora_base``).
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any, Final

from registry.errors import InvalidAdapterError
from registry.files.header import Header
from registry.files.strict_json import parse, shown
from registry.images.keys import ALPHA, DENOISER, TUNERS, SpelledModule, components_of

METADATA: Final = "lora_adapter_metadata"
"""Where diffusers writes the configuration of each component, in the header (``utils/peft_utils``)."""

_MOST_METADATA: Final = 1 << 20
_OF_DENOISER: Final = ("unet", "transformer")
_PLAIN: Final = re.compile(r"[\w.]+")
_OF_MODULES: Final = frozenset(
    {"r", "lora_alpha", "rank_pattern", "alpha_pattern", "target_modules", "exclude_modules", "layers_to_transform",
     "layers_pattern", "modules_to_save", "target_parameters", "auto_mapping", "base_model_name_or_path", "revision",
     "inference_mode"}
)  # fmt: skip


def is_alpha(value: object) -> bool:
    """Whether a value is an alpha that scales something."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value) and value != 0


def told(header: Header, modules: Mapping[str, SpelledModule]) -> dict[str, dict[str, Any]]:
    """The configurations that diffusers wrote, by the component that the names say; empty: there are none.

    Alpha tensors of the file count before them.

    Raises:
        InvalidAdapterError: ``bad_config``.
    """
    text = header.metadata.get(METADATA)
    if text is None or any(ALPHA in one.parts for one in modules.values()):
        return {}
    document = parse(
        text.encode(), what=f"{METADATA} in the header", limit=_MOST_METADATA, error=InvalidAdapterError,
        code="bad_config",
    )  # fmt: skip
    if not isinstance(document, dict):
        raise InvalidAdapterError(f"{METADATA} in the header is no JSON object.", code="bad_config")
    found: dict[str, dict[str, Any]] = {}
    for component, _ in components_of(modules.values()):
        leads = _OF_DENOISER if component == DENOISER else (component,)
        fields = {key.partition(".")[2]: value for key, value in document.items() if key.partition(".")[0] in leads}
        if fields:
            found[component] = fields
    return found


def alphas_of(
    modules: Mapping[str, SpelledModule], said: Mapping[str, Mapping[str, Any]], ranks: Mapping[str, int | None]
) -> dict[str, float]:
    """Alpha of each module, by the configurations of several components; one without any has its rank.

    Raises:
        InvalidAdapterError: ``rank_mismatch``; ``bad_config`` for what one configuration can't say of all of them.
    """
    found = {}
    for name, one in modules.items():
        fields = said.get(one.component)
        if fields is None:
            continue
        rank = _resolved(fields, "r", "rank_pattern", one)
        alpha = _resolved(fields, "lora_alpha", "alpha_pattern", one)
        if ranks[name] != rank:
            raise InvalidAdapterError(
                f"{METADATA} in the header says rank {shown(rank)} of {shown(name)}, and its tensors have "
                f"{shown(ranks[name])}. Save the LoRA again.",
                code="rank_mismatch",
            )
        if not is_alpha(alpha):
            raise InvalidAdapterError(f"{METADATA} in the header says alpha {shown(alpha)}.", code="bad_config")
        found[name] = float(alpha)
    return found


def _resolved(fields: Mapping[str, Any], field: str, pattern: str, one: SpelledModule) -> Any:
    """A field of one module: by the first name of a pattern that ends its name, as PEFT looks it up."""
    named = fields.get(pattern) or {}
    if not isinstance(named, dict) or not all(_PLAIN.fullmatch(key) for key in named):
        raise InvalidAdapterError(
            f"{METADATA} in the header has a {pattern} that is no map of plain names of modules, and the file changes "
            "several components. Write one file for each.",
            code="bad_config",
        )
    ends = (value for key, value in named.items() if one.name == key or one.name.endswith(f".{key}"))
    return next(ends, fields.get(field))


def common(said: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """What the configurations of several components say of all of them.

    Raises:
        InvalidAdapterError: ``bad_config``, they differ in more than ranks, alphas and names of modules.
    """
    found: dict[str, Any] | None = None
    for fields in said.values():
        own = {key: value for key, value in fields.items() if key not in _OF_MODULES}
        if own.get("peft_type") in TUNERS:
            raise InvalidAdapterError(
                f"{METADATA} in the header is a configuration of PEFT's {own['peft_type']} for one of several "
                "components. Write one file for each.",
                code="bad_config",
            )
        if found is None:
            found = own
        differs = sorted(key for key in found.keys() | own.keys() if found.get(key) != own.get(key))
        if differs:
            raise InvalidAdapterError(
                f"{METADATA} in the header says {shown(differs[0])} of one component and another value of the next. "
                "Write one file for each.",
                code="bad_config",
            )
    return found or {}
