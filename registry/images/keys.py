"""How files of LoRAs for image models name their tensors: a module as the file spells it, and a part of its change.

The ends of names are the same for all models and all trainers, the beginnings say which component is meant and how the
module is spelled: diffusers, kohya's scripts (dots became underlines), ComfyUI and ai-toolkit (``diffusion_model.``),
OneTrainer (``lora_transformer_``), SimpleTuner (``lycoris_``), XLabs (processors). A name that is none of these is
refused, and so is every kind of change that is not read yet, by its name. Sources: diffusers 0.42
(``loaders/lora_conversion_utils``, ``utils/state_dict_utils``), ComfyUI's ``comfy/lora.py``, sd-scripts' ``networks``.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Final, NoReturn

from registry.errors import InvalidAdapterError
from registry.files.strict_json import shown

DOWN: Final = "down"
UP: Final = "up"
ALPHA: Final = "alpha"
BIAS: Final = "bias"
MAGNITUDE: Final = "magnitude"
"""Of DoRA, one number for each output feature, whatever the axis of its tensor."""
DORA_SCALE: Final = "dora_scale"
"""Of DoRA, with the axis that its shape says."""
MID: Final = "mid"
"""The core between the two factors of LoCon's Tucker form."""
DIFF: Final = "diff"
"""What is added to a weight, and to a bias (`DIFF_B`), as it is."""
DIFF_B: Final = "diff_b"
SET_WEIGHT: Final = "set_weight"
"""What a weight becomes."""

FACTORS: Final = "weight"
"""Of IA3: what rows or columns are multiplied by, less 1; `ON_INPUT` holds which."""
ON_INPUT: Final = "on_input"
LOHA: Final = ("hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b")
LOHA_CORES: Final = ("hada_t1", "hada_t2")
LOKR: Final = ("lokr_w1", "lokr_w1_a", "lokr_w1_b", "lokr_w2", "lokr_w2_a", "lokr_w2_b", "lokr_t2")
TUNERS: Final[Mapping[str, str]] = {"LOHA": "hada_", "LOKR": "lokr_"}
"""PEFT's ``peft_type`` of the tuners that are no LoRA and are read -> what the names of their parts begin with."""

_PARTS: Final[tuple[tuple[re.Pattern[str], str], ...]] = (
    (re.compile(r"\.lora_down\.weight"), DOWN),
    (re.compile(r"\.lora_up\.weight"), UP),
    (re.compile(r"\.lora_A(\.default)?\.weight"), DOWN),
    (re.compile(r"\.lora_B(\.default)?\.weight"), UP),
    (re.compile(r"\.lora_B(\.default)?\.bias"), BIAS),
    (re.compile(r"\.(lora|lora_linear_layer)\.down\.weight"), DOWN),
    (re.compile(r"\.(lora|lora_linear_layer)\.up\.weight"), UP),
    (re.compile(r"\.alpha"), ALPHA),
    (re.compile(r"\.dora_scale"), DORA_SCALE),
    (re.compile(r"\.lora_magnitude_vector(\.default)?(\.weight)?"), MAGNITUDE),
    (re.compile(r"\.magnitude"), MAGNITUDE),
    (re.compile(r"\.lora_mid\.weight"), MID),
    (re.compile(r"\.(diff|w_norm)"), DIFF),
    (re.compile(r"\.(diff_b|b_norm)"), DIFF_B),
    (re.compile(r"\.set_weight"), SET_WEIGHT),
    (re.compile(r"\.on_input"), ON_INPUT),
    *((re.compile(rf"\.{part}"), part) for part in (*LOHA, *LOHA_CORES, *LOKR)),
)
_DECISIVE: Final = frozenset({DOWN, UP, *LOHA, *LOKR})  # no checkpoint of a model has such names
_WEIGHT: Final = ".weight"
_PROCESSOR: Final = re.compile(r"(.+)\.processor\.(\w+)_lora\.(down|up)\.weight")
_OLD_TEXT: Final = re.compile(r"(.+\.self_attn)\.to_(q|k|v|out)_lora\.(down|up)\.weight")
_XLABS: Final = re.compile(r"((?:double|single)_blocks\.\d+\.processor\.(?:qkv|proj)_lora\d?)\.(down|up)\.weight")
_UNREAD: Final[tuple[tuple[re.Pattern[str], str], ...]] = (
    (re.compile(r".*\.(oft_blocks|oft_diag|oft_\w+)"), "an OFT or BOFT"),
    (re.compile(r".*\.(a1|a2|b1|b2|bm)\.weight"), "a GLoRA"),
    (re.compile(r".*\.lora_[AB]\.\d+"), "a DyLoRA that keeps each rank apart"),
    (re.compile(r".*\.((q|p)_layer\.weight|lambda_layer)"), "a T-LoRA"),
    (re.compile(r".*\.(scalar|reshape_weight)"), "a LyCORIS adapter that was saved in training"),
)
_EMBEDDING: Final = re.compile(r"emb_params|clip_[lg]|string_to_param\..*")

DENOISER: Final = "denoiser"
"""The component that LoRAs of image models change first: a pipeline's unet or transformer."""


@dataclass(frozen=True)
class Spelling:
    """A beginning of names: the component that it means, and how the module behind it is spelled."""

    lead: str
    component: str
    flat: bool = False  # dots became underlines
    said: str = ""  # diffusers' name of the component, if that is what it is


SPELLINGS: Final[tuple[Spelling, ...]] = (
    Spelling("lora_unet_", DENOISER, flat=True),
    Spelling("lora_transformer_", DENOISER, flat=True),
    Spelling("lycoris_", DENOISER, flat=True),
    Spelling("lora_te_", "text_encoder", flat=True),
    Spelling("lora_te1_", "text_encoder", flat=True),
    Spelling("lora_te2_", "text_encoder_2", flat=True),
    Spelling("lora_te3_", "text_encoder_3", flat=True),
    Spelling("model.diffusion_model.", DENOISER),
    Spelling("diffusion_model.", DENOISER),
    Spelling("unet.", DENOISER, said="unet"),
    Spelling("transformer.", DENOISER, said="transformer"),
    Spelling("transformer_2.", "transformer_2", said="transformer_2"),
    Spelling("text_encoder.", "text_encoder", said="text_encoder"),
    Spelling("text_encoder_2.", "text_encoder_2", said="text_encoder_2"),
    Spelling("text_encoder_3.", "text_encoder_3", said="text_encoder_3"),
    Spelling("text_encoders.clip_l.transformer.", "text_encoder"),
    Spelling("text_encoders.clip_g.transformer.", "text_encoder_2"),
    Spelling("text_encoders.t5xxl.transformer.", "text_encoder_3"),
    Spelling("text_encoders.", "text_encoder"),
    Spelling("base_model.model.", DENOISER),
)
"""From the narrowest to the widest; a name that begins with none is the module itself."""

FORMATS: Final[tuple[tuple[str, re.Pattern[str]], ...]] = (
    ("XLabs", re.compile(r"(double|single)_blocks\.\d+\.processor\..+")),
    ("OneTrainer", re.compile(r"lora_transformer_.+")),
    ("kohya", re.compile(r"lora_(unet|te\d?)_.+")),
    ("SimpleTuner", re.compile(r"lycoris_.+")),
    ("ComfyUI", re.compile(r"(model\.)?diffusion_model\..+|text_encoders\..+")),
    ("diffusers", re.compile(r"(unet|transformer(_2)?|text_encoder(_[23])?)\..+|.+\.processor\..+")),
)
"""What people call files with such names; the first that matches one of a file's."""


@dataclass(frozen=True)
class SpelledModule:
    """A module that a file changes, and the names of its tensors by part."""

    spelled: str  # as in the file, with what stands before it: lora_unet_mid_block_attentions_0_proj_in
    component: str
    name: str  # without it
    flat: bool
    parts: Mapping[str, str]
    said: str = ""  # diffusers' name of the component, if the file has it


def format_of(names: Iterable[str]) -> str | None:
    """What a file with tensors of these names is called; None: it is none of these."""
    listed = list(names)
    return next((name for name, pattern in FORMATS if any(map(pattern.fullmatch, listed))), None)


def is_image_lora(names: Collection[str]) -> bool:
    """Whether a file with tensors of these names is a LoRA for an image model, by what trainers call them.

    One factor is enough: what else the file has is then refused by its name (`spelled_modules`), and not the file.
    """
    if format_of(names) is None:
        return False
    known = set(names)
    split = [_split(name, known) for name in known]
    if any(one is not None and one[1] in _DECISIVE for one in split):
        return True
    return all(one is not None or _unread(name) for name, one in zip(known, split, strict=True))


def spelled_modules(names: Iterable[str]) -> dict[str, SpelledModule]:
    """The modules of a file, by what it calls them.

    Raises:
        InvalidAdapterError: ``unexpected_tensor`` for a name that says nothing here, or the same as another;
            ``format_unsupported`` for a kind of change that is not read; ``incomplete_pair``.
    """
    found: dict[str, dict[str, str]] = {}
    known = set(names)
    for name in sorted(known):
        split = _split(name, known)
        if split is None:
            raise _refusal(name)
        module, part = split
        parts = found.setdefault(module, {})
        if part in parts:
            raise InvalidAdapterError(
                f"Tensor {shown(name)} says the same as {shown(parts[part])}. Keep one of them.",
                code="unexpected_tensor",
            )
        parts[part] = name
    return {module: _complete(module, parts) for module, parts in sorted(found.items())}


def _split(name: str, names: Collection[str]) -> tuple[str, str] | None:
    """(module as spelled, part) of a tensor's name among others."""
    module = name.removesuffix(_WEIGHT)
    if module != name and f"{module}.{ON_INPUT}" in names:  # else it is a weight of a model
        return module, FACTORS
    xlabs = _XLABS.fullmatch(name)
    if xlabs is not None:
        return xlabs[1], xlabs[2]
    old = _PROCESSOR.fullmatch(name)
    if old is not None:
        return f"{old[1]}.{'to_out.0' if old[2] == 'to_out' else old[2]}", old[3]
    text = _OLD_TEXT.fullmatch(name)
    if text is not None:
        return f"{text[1]}.{text[2]}_proj", text[3]
    for pattern, part in _PARTS:
        end = next((found for found in pattern.finditer(name) if found.end() == len(name)), None)
        if end is not None and end.start():
            return name[: end.start()], part
    return None


def _unread(name: str) -> str | None:
    return next((what for pattern, what in _UNREAD if pattern.fullmatch(name)), None)


def _refusal(name: str) -> InvalidAdapterError:
    what = _unread(name)
    if what is not None:
        return InvalidAdapterError(
            f"Tensor {shown(name)} is a part of {what}, which is not read here: train a plain LoRA, or convert it "
            "to one.",
            code="format_unsupported",
        )
    if _EMBEDDING.fullmatch(name):
        return InvalidAdapterError(
            f"Tensor {shown(name)} is a textual inversion: it changes the input and no weights, so there is nothing to "
            "compose or to merge. Keep it beside the model.",
            code="format_unsupported",
        )
    return InvalidAdapterError(
        f"Tensor {shown(name)} is no part of a LoRA that is known here. Remove it, or save the LoRA again.",
        code="unexpected_tensor",
    )


@dataclass(frozen=True)
class Form:
    """One way to write a change of a module: the parts that it has, and those that may stand beside them."""

    needs: frozenset[str]
    may: frozenset[str] = frozenset()


_SCALED: Final = frozenset({ALPHA, DORA_SCALE, MAGNITUDE, DIFF_B})
_FULL: Final = frozenset({ALPHA, DIFF_B})  # readers ignore the alpha
FORMS: Final[tuple[Form, ...]] = (
    Form(frozenset({DOWN, UP}), _SCALED | {BIAS, MID}),
    Form(frozenset(LOHA), _SCALED),
    Form(frozenset({*LOHA, *LOHA_CORES}), _SCALED),
    *(
        Form(frozenset(f"lokr_{part}" for part in (*first, *second)), _SCALED)
        for first in (("w1",), ("w1_a", "w1_b"))
        for second in (("w2",), ("w2_a", "w2_b"), ("w2_a", "w2_b", "t2"))
    ),
    Form(frozenset({DIFF}), _FULL),
    Form(frozenset({SET_WEIGHT}), _FULL),
    Form(frozenset({DIFF_B}), frozenset({ALPHA})),
    Form(frozenset({FACTORS, ON_INPUT})),
)
"""All that are read, the parts of each as they are written."""


def _complete(spelled: str, parts: Mapping[str, str]) -> SpelledModule:
    check_parts(spelled, parts)
    for one in SPELLINGS:
        if spelled.startswith(one.lead):
            return SpelledModule(spelled, one.component, spelled[len(one.lead) :], one.flat, dict(parts), one.said)
    return SpelledModule(spelled, DENOISER, spelled, False, dict(parts))


def check_parts(spelled: str, parts: Mapping[str, str]) -> None:
    """Check that the parts of a module are one form, and nothing else.

    Raises:
        InvalidAdapterError: ``incomplete_pair``, or ``unexpected_tensor`` for parts that don't belong together.
    """
    if not any(form.needs <= set(parts) <= form.needs | form.may for form in FORMS):
        _refuse_parts(spelled, parts)
    if DORA_SCALE in parts and MAGNITUDE in parts:
        raise InvalidAdapterError(
            f"{shown(spelled)} has two magnitudes, {shown(parts[DORA_SCALE])} and {shown(parts[MAGNITUDE])}. Keep one.",
            code="unexpected_tensor",
        )


def _refuse_parts(spelled: str, parts: Mapping[str, str]) -> NoReturn:
    essential = {part for form in FORMS for part in form.needs}
    there = set(parts) & (essential - {DIFF_B}) or set(parts) & essential
    first = parts[min(there)] if there else next(iter(parts.values()))
    if not there:
        raise InvalidAdapterError(
            f"Tensor {shown(first)} belongs to no pair: the file holds no factors of {shown(spelled)}. Save the LoRA "
            "again.",
            code="incomplete_pair",
        )
    lacking = [form.needs - set(parts) for form in FORMS if there <= form.needs]
    missing = min(lacking, key=len, default=frozenset())
    if missing:
        raise InvalidAdapterError(
            f"{shown(first)} has no counterpart: the file holds no {' and no '.join(sorted(missing))} factor of "
            f"{shown(spelled)}, and a pair needs both. Save the LoRA again.",
            code="incomplete_pair",
        )
    raise InvalidAdapterError(
        f"{shown(spelled)} has tensors that do not belong together: {', '.join(shown(one) for one in parts.values())}. "
        "Keep one kind of change for each module.",
        code="unexpected_tensor",
    )


def components_of(modules: Iterable[SpelledModule]) -> Iterator[tuple[str, int]]:
    """The components that a file changes, and how many modules of each."""
    counted: dict[str, int] = {}
    for module in modules:
        counted[module.component] = counted.get(module.component, 0) + 1
    yield from sorted(counted.items())
