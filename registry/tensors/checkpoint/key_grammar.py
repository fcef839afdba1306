"""The names of tensors in a PEFT LoRA checkpoint.

``base_model.model.`` MODULE ``.`` TAIL, where the tail says which part of the adapter of MODULE the tensor is; the
tails are those of all variants. MODULE is a path in the runtime module tree, not a name in the base files. A name
without such a tail is a whole parameter. Everything else is refused; other dialects are recognised, so that the message
can give the name that the tensor should have (`registry.tensors.checkpoint.foreign_names`).
"""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass
from typing import Final

from registry.errors import InvalidAdapterError
from registry.files.strict_json import shown
from registry.tensors.checkpoint.foreign_names import advice, is_foreign
from registry.tensors.checkpoint.variants.table import TAILS

LEAD: Final = "base_model.model."
MAX_LENGTH: Final = 512
MAX_SEGMENTS: Final = 64
PARAMETER: Final = "parameter"

_LONGEST: Final = max(tail.count(".") + 1 for tail in TAILS)
_SEGMENTS: Final = re.compile(r"[^\s.\x00-\x1f\x7f]+(?:\.[^\s.\x00-\x1f\x7f]+)*")
_RESERVED: Final = ("original_module", "modules_to_save", "token_adapter")


@dataclass(frozen=True, slots=True)
class ParsedKey:
    """What a tensor's name says: a part of the adapter of a module, or a whole parameter of it."""

    module: str
    part: str  # PARAMETER, or one of the parts of the variants' tails
    parameter: str = ""  # of a whole parameter: its name


def parse_key(name: str, modules: Collection[str] = ()) -> ParsedKey:
    """Read a tensor's name.

    Args:
        name: the name.
        modules: names of the base's modules, for the advice on names that flatten them.

    Raises:
        InvalidAdapterError: ``unexpected_tensor``, saying what the name looks like and what to do.
    """
    if len(name) > MAX_LENGTH or name.count(".") > MAX_SEGMENTS:
        raise InvalidAdapterError(
            f"Tensor {shown(name)} has a name of {len(name)} characters and {name.count('.') + 1} segments; at most "
            f"{MAX_LENGTH} and {MAX_SEGMENTS} are allowed.",
            code="unexpected_tensor",
        )
    if not name.startswith(LEAD) or _SEGMENTS.fullmatch(name) is None:
        raise _refusal(name, modules)
    segments = name[len(LEAD) :].split(".")
    for length in range(min(_LONGEST, len(segments) - 1), 0, -1):
        part = TAILS.get(".".join(segments[-length:]))
        if part is not None:
            return ParsedKey(".".join(segments[:-length]), part)
    inside = _inside_wrapper(segments)
    if inside is not None:
        return inside
    if len(segments) < 2 or "lora_" in name or is_foreign(name) or any(segment in _RESERVED for segment in segments):
        raise _refusal(name, modules)
    return ParsedKey(".".join(segments[:-1]), PARAMETER, segments[-1])


def _inside_wrapper(segments: list[str]) -> ParsedKey | None:
    """A bias below a module that PEFT wraps whole: head.modules_to_save.dense.bias is of head.dense."""
    for wrapper in ("modules_to_save", "original_module"):
        part = TAILS.get(f"{wrapper}.{segments[-1]}")
        if part is not None and segments.count(wrapper) == 1 and segments[0] != wrapper:
            return ParsedKey(".".join(segment for segment in segments[:-1] if segment != wrapper), part)
    return None


def _refusal(name: str, modules: Collection[str]) -> InvalidAdapterError:
    return InvalidAdapterError(f"Tensor {shown(name)} {advice(name, modules)}", code="unexpected_tensor")
