"""The names of tensors in a PEFT LoRA checkpoint.

``base_model.model.`` MODULE ``.`` TAIL, where the tail names the part of the adapter of MODULE that the tensor is; the
tails are those of all variants. MODULE is a path in the runtime module tree, not a name in the base files. A name
without such a tail is a whole parameter. Everything else is refused; other dialects are recognised, so that the message
can give the name that the tensor should have (`registry.tensors.checkpoint.key_grammar`).

Names of LoRA tensors as the rest of the world writes them, with the name that PEFT would give them.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass
from typing import Final

from registry.errors import InvalidAdapterError
from registry.files.strict_json import shown
from registry.tensors.checkpoint.variants.table import TAILS

_LEAD: Final = "base_model.model."
_SAVE: Final = "Save the adapter with PEFT's save_pretrained."
_TAIL: Final = re.compile(
    r"\.(?:lora_[AB]\.(?:weight|bias)|lora_embedding_[AB]|lora_magnitude_vector|base_layer\.(?:weight|bias)"
    r"|token_adapter\.trainable_tokens_delta|weight|bias)"
)
_RAW: Final = re.compile(
    r"(.*\.lora_(?:A|B|embedding_A|embedding_B|magnitude_vector))\.(?!weight$|bias$)([\w-]+)((?:\.weight|\.bias)?)"
)
_ADALORA: Final = re.compile(r".*\.(?:lora_[ABE]|ranknum)")
_KOHYA: Final = re.compile(
    r"lora_(unet|te\d?|transformer)_(\w+)\.(lora_down\.weight|lora_up\.weight|alpha|lora_mid\.weight|dora_scale|[\w.]+)"
)
_LYCORIS: Final = re.compile(r".*\.(?:hada_\w+|lokr_\w+|oft_\w+|lora_mid\.weight|dora_scale|diff|diff_b)")
_COMPONENT: Final = re.compile(r"(?:base_model\.model\.)?(unet|transformer|text_encoder(?:_2|_3)?)\.(.+)")
_UP_DOWN: Final[tuple[tuple[re.Pattern[str], str], ...]] = (
    (re.compile(r"(.*)\.processor\.(to_\w+?)_lora\.(down|up)\.weight"), r"\1.\2.{}.weight"),
    (re.compile(r"(.*?)(?:\.lora|\.lora_linear_layer)\.(down|up)\.weight"), r"\1.{}.weight"),
    (re.compile(r"(.*)\.lora_(down|up)\.weight"), r"\1.{}.weight"),
)
_FACTORS: Final = {"down": "lora_A", "up": "lora_B"}


def advice(name: str, modules: Collection[str] = ()) -> str:
    """What a name looks like that is not one of PEFT's, and what to do: the end of a sentence that begins with it."""
    for recognise in (_raw, _kohya, _lycoris, _diffusers, _adalora, _replaced, _without_lead):
        found = recognise(name, modules)
        if found is not None:
            return found
    return (
        f"is not a part of a PEFT LoRA. Remove it, or save the adapter with PEFT's save_pretrained ({_LEAD}MODULE...)."
    )


def is_foreign(name: str) -> bool:
    """Whether a name is certainly of another dialect, although it could be that of a whole parameter."""
    return _LYCORIS.fullmatch(name) is not None


def _rename(to: str) -> str:
    return f"rename it to {to!a}"  # in full: names are bounded by the grammar


def _raw(name: str, _: Collection[str]) -> str | None:
    found = _RAW.fullmatch(name)
    if found is None:
        return None
    return (
        f"carries the adapter name {found[2]!r}: this is a raw state dict. {_SAVE[:-1]}, or "
        f"{_rename(_with_lead(found[1] + found[3]))}."
    )


def _replaced(name: str, _: Collection[str]) -> str | None:
    for wrapper in (".original_module.", ".modules_to_save."):
        before, found, after = name.partition(wrapper)
        if not found:
            continue
        if wrapper == ".original_module.":
            return f"is the module that modules_to_save has replaced, from a raw state dict: remove it. {_SAVE}"
        rest = after.partition(".")[2] if after.count(".") else after
        return (
            f"is part of a raw state dict with a replaced module. {_SAVE[:-1]}, or "
            f"{_rename(_with_lead(f'{before}.{rest}'))}."
        )
    return None


def _adalora(name: str, _: Collection[str]) -> str | None:
    if _ADALORA.fullmatch(name) is None:
        return None
    return (
        "is named as AdaLoRA names its factors (lora_A, lora_B and lora_E without .weight). Save B diag(E) as "
        "lora_B.weight and A as lora_A.weight of a plain LoRA."
    )


def _lycoris(name: str, _: Collection[str]) -> str | None:
    if _LYCORIS.fullmatch(name) is None:
        return None
    return "is a part of a LyCORIS adapter, which is not a pair of two factors. Convert it to a plain LoRA first."


def _kohya(name: str, modules: Collection[str]) -> str | None:
    found = _KOHYA.fullmatch(name)
    if found is None:
        return None
    flat, tail = found[2], found[3]
    if tail == "alpha":
        return (
            "is the alpha of one module as kohya writes it. Remove it, and put alpha_pattern into adapter_config.json "
            f"(module {_unflattened(flat, modules)})."
        )
    factor = {"lora_down.weight": "lora_A.weight", "lora_up.weight": "lora_B.weight"}.get(tail)
    if factor is None:
        return "is a part of a kohya adapter that is not a pair of two factors. Convert it to a plain LoRA first."
    return (
        "is named as kohya or diffusers name LoRA tensors; "
        f"{_rename(f'{_LEAD}{_unflattened(flat, modules)}.{factor}')}, and put its alpha into alpha_pattern."
    )


def _unflattened(flat: str, modules: Collection[str]) -> str:
    """The only module of the base that kohya's name can mean, else a placeholder."""
    found = [module for module in modules if module.replace(".", "_") == flat]
    return found[0] if len(found) == 1 else "MODULE"


def _diffusers(name: str, _: Collection[str]) -> str | None:
    component = _COMPONENT.fullmatch(name)
    path = component[2] if component is not None else name.removeprefix(_LEAD)
    for pattern, form in _UP_DOWN:
        found = pattern.fullmatch(path)
        if found is not None:
            path = found.expand(form).format(_FACTORS[found[found.lastindex or 0]])
            break
    else:
        if component is None or "lora" not in path or name.startswith(_LEAD):
            return None
    of = f" of the component {component[1]}" if component is not None else ""
    apart = " One adapter is of one model: publish each component by itself." if component is not None else ""
    return f"is named as kohya or diffusers name LoRA tensors{of}; {_rename(_LEAD + path)}.{apart}"


def _without_lead(name: str, _: Collection[str]) -> str | None:
    if name.startswith(_LEAD):
        return None
    if _TAIL.search(name) is None or not _TAIL.fullmatch(name[_last_tail(name) :]):
        return f"lacks the prefix {_LEAD!r} that PEFT writes. {_SAVE}"
    return f"lacks the prefix {_LEAD!r} that PEFT writes; {_rename(_with_lead(name))}, or save it with save_pretrained."


def _last_tail(name: str) -> int:
    return max((found.start() for found in _TAIL.finditer(name) if found.end() == len(name)), default=len(name))


def _with_lead(name: str) -> str:
    if name.startswith(_LEAD):
        return name
    return _LEAD + name.removeprefix("base_model.").removeprefix("model.base_model.")


LEAD: Final = "base_model.model."
MAX_LENGTH: Final = 512
MAX_SEGMENTS: Final = 64
PARAMETER: Final = "parameter"

_LONGEST: Final = max(tail.count(".") + 1 for tail in TAILS)
_SEGMENTS: Final = re.compile(r"[^\s.\x00-\x1f\x7f]+(?:\.[^\s.\x00-\x1f\x7f]+)*")
_RESERVED: Final = ("original_module", "modules_to_save", "token_adapter")


@dataclass(frozen=True, slots=True)
class ParsedKey:
    """What a tensor's name means: a part of the adapter of a module, or a whole parameter of it."""

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
