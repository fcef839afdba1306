"""The configuration of a LoRA that came as one file: what PEFT's adapter_config.json says, said of the file's tensors.

Trainers of image models write weights alone. Where alpha stands in tensors of no dimension (kohya's way) these are read
once, when the file is published, and compared with it when it is stored; where none is, alpha is the rank of each pair;
where diffusers wrote its configuration into the header, that counts. The file itself stays as it is: the made
configuration names its format, and the normal form (`registry.images.normal_form`) is made when it is read.
"""

from __future__ import annotations

import json
import math
import re
import struct
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from registry.errors import InvalidAdapterError
from registry.files.header import Header, TensorEntry
from registry.files.strict_json import shown
from registry.images.changes import rank_of
from registry.images.header_config import METADATA, alphas_of, common, is_alpha, told
from registry.images.keys import (
    ALPHA,
    BIAS,
    DORA_SCALE,
    FORMATS,
    MAGNITUDE,
    ON_INPUT,
    TUNERS,
    SpelledModule,
    components_of,
    format_of,
    spelled_modules,
)

FIELD: Final = "registry"
"""The field of adapter_config.json that PEFT does not have."""

_SPLIT: Final = re.compile(
    r'"split_qkv"\s*:\s*"?true\b', re.IGNORECASE
)  # in ss_network_args, as kohya's scripts write them
_FIELDS: Final = {"format", "file", "alphas", "split_qkv", "rank", "on_input", "component"}
_MOST_NAME: Final = 1024
_PLACES: Final = {"F16": "<e", "F32": "<f", "F64": "<d", "I8": "<b", "U8": "<B", "I16": "<h", "I32": "<i", "I64": "<q"}
_SAID: Final = ("ss_network_alpha", "alpha")  # metadata that readers of such files do not look at


@dataclass(frozen=True)
class LoraFile:
    """What the made configuration says of the file.

    Attributes:
        format: what such files are called (`registry.images.keys.FORMATS`).
        file: its name.
        alphas: alpha of modules as the file spells them, of those that have another than ``lora_alpha``; None: the
            configuration says it by PEFT's patterns.
        rank: what alpha is divided by in all modules, as PEFT's LoHa and LoKr do it; None: by the rank of each.
        on_input: modules as the file spells them whose IA3 multiplies columns; those of all others multiply rows.
        split_qkv: it was trained with split projections, whose alpha readers divide by the joined rank.
        component: of a pipeline, which the names of a denoiser mean where they fit several (``transformer_2``).
    """

    format: str
    file: str
    alphas: Mapping[str, float] | None = field(default=None)
    split_qkv: bool = False
    rank: int | None = None
    on_input: tuple[str, ...] = ()
    component: str | None = None

    def document(self) -> dict[str, Any]:
        """As it stands in the configuration."""
        alphas = {} if self.alphas is None else {"alphas": dict(self.alphas)}
        rest = {"split_qkv": True} if self.split_qkv else {}
        rank = {} if self.rank is None else {"rank": self.rank}
        inputs = {"on_input": list(self.on_input)} if self.on_input else {}
        component = {} if self.component is None else {"component": self.component}
        return {"format": self.format, "file": self.file, **alphas, **rest, **rank, **inputs, **component}


def lora_file(name: str, value: Any) -> LoraFile | None:
    """Read the field.

    Raises:
        InvalidAdapterError: ``bad_config``.
    """
    if value is None:
        return None
    if not isinstance(value, dict) or not set(value) <= _FIELDS:
        raise _fault(name, value)
    form, file, alphas = value.get("format"), value.get("file"), value.get("alphas")
    if form not in {known for known, _ in FORMATS} or not isinstance(file, str) or len(file) > _MOST_NAME:
        raise _fault(name, value)
    if alphas is not None and not (isinstance(alphas, dict) and all(map(is_alpha, alphas.values()))):
        raise _fault(name, value)
    rank = value.get("rank")
    if rank is not None and (type(rank) is not int or rank < 1):
        raise _fault(name, value)
    on_input = value.get("on_input", [])
    if not isinstance(on_input, list) or not all(isinstance(module, str) for module in on_input):
        raise _fault(name, value)
    component = value.get("component")
    if component is not None and not (isinstance(component, str) and len(component) <= _MOST_NAME):
        raise _fault(name, value)
    return LoraFile(form, file, alphas, value.get("split_qkv") is True, rank, tuple(on_input), component)


def _fault(name: str, value: object) -> InvalidAdapterError:
    return InvalidAdapterError(
        f"adapter_config.json: {name} is {shown(value)}; expected what `registry publish` writes there of a LoRA file.",
        code="bad_config",
    )


def made_config(
    header: Header, read: Callable[[TensorEntry], bytes], file: str, component: str | None = None
) -> dict[str, Any]:
    """The configuration of a LoRA file.

    Args:
        header: its header.
        read: reads the bytes of a small tensor of it.
        file: its name.
        component: of a pipeline, which the names of a denoiser mean.

    Raises:
        InvalidAdapterError: what `registry.images.keys.spelled_modules` raises; ``alpha_zero`` or ``alpha_invalid``
            for an alpha that means nothing; ``alpha_unclear`` where the metadata has one and no tensor.
    """
    form = format_of(header.entries)
    if form is None:
        raise AssertionError(f"{file} is no LoRA file")
    modules = spelled_modules(header.entries)
    said = told(header, modules)
    if said and len(list(components_of(modules.values()))) == 1:
        (only,) = said.values()
        if only.get("peft_type") in TUNERS:
            return _of_tuner(only, form, file, component)
        return {"peft_type": "LORA", **only, FIELD: LoraFile(form, file, component=component).document()}
    ranks = {name: rank_of(one, header.entries) for name, one in modules.items()}
    alphas = {
        name: alpha_in(header.entries[one.parts[ALPHA]], read) for name, one in modules.items() if ALPHA in one.parts
    }
    if said:
        alphas = alphas_of(modules, said, ranks)
    elif not alphas:
        _check_said(header, ranks)
    own = {name: alphas.get(name, float(rank)) for name, rank in ranks.items() if rank is not None}
    whole = own | {name: alpha for name, alpha in alphas.items() if name not in own}
    usual = Counter(own.values() or whole.values() or (1.0,)).most_common(1)[0][0]
    others = {name: alpha for name, alpha in whole.items() if alpha != usual}
    split = _SPLIT.search(header.metadata.get("ss_network_args", "")) is not None
    return {
        **common(said),
        "peft_type": "LORA",
        "r": max((rank for rank in ranks.values() if rank), default=1),
        "lora_alpha": int(usual) if usual == int(usual) else usual,
        "use_dora": any({DORA_SCALE, MAGNITUDE} & set(one.parts) for one in modules.values()),
        "lora_bias": any(BIAS in one.parts for one in modules.values()),
        "target_modules": None,
        FIELD: LoraFile(
            form, file, others, split, on_input=_on_input(header, modules, read), component=component
        ).document(),
    }


def _of_tuner(said: Mapping[str, Any], form: str, file: str, component: str | None) -> dict[str, Any]:
    """The configuration of PEFT's LoHa or LoKr: alpha over r in every module, also where nothing has a rank."""
    rank, alpha = said.get("r"), said.get("alpha")
    if (
        type(rank) is not int
        or rank < 1
        or not is_alpha(alpha)
        or said.get("rank_pattern")
        or said.get("alpha_pattern")
    ):
        raise InvalidAdapterError(
            f"{METADATA} in the header is a configuration of PEFT's {said['peft_type']} with r {shown(rank)}, alpha "
            f"{shown(alpha)} and patterns {shown(said.get('rank_pattern') or said.get('alpha_pattern') or {})}; one r, "
            "one alpha and no patterns are read. Merge the adapter, and publish the model.",
            code="bad_config",
        )
    return {
        "peft_type": "LORA",
        "r": rank,
        "lora_alpha": alpha,
        "target_modules": None,
        FIELD: LoraFile(form, file, {}, rank=rank, component=component).document(),
    }


def _on_input(
    header: Header, modules: Mapping[str, SpelledModule], read: Callable[[TensorEntry], bytes]
) -> tuple[str, ...]:
    """The modules whose factors are of columns."""
    found = []
    for name, one in modules.items():
        if ON_INPUT in one.parts:
            entry = header.entries[one.parts[ON_INPUT]]
            number = number_in(entry, read)
            if number not in (0.0, 1.0):
                raise InvalidAdapterError(
                    f"Tensor {shown(entry.name)} holds {number:g}, expected 0 (it multiplies rows) or 1 (columns). "
                    "Save the adapter again.",
                    code="alpha_invalid",
                )
            if number:
                found.append(name)
    return tuple(found)


def alpha_in(entry: TensorEntry, read: Callable[[TensorEntry], bytes]) -> float:
    """The alpha that a tensor holds.

    Raises:
        InvalidAdapterError: ``alpha_zero``, readers differ in what it means; ``alpha_invalid``.
    """
    alpha = number_in(entry, read)
    if not alpha:
        raise InvalidAdapterError(
            f"Tensor {shown(entry.name)} is an alpha of 0, which kohya's scripts read as the rank and ComfyUI as 0. "
            "Write the alpha that is meant, or remove the tensor: then it is the rank.",
            code="alpha_zero",
        )
    return alpha


def number_in(entry: TensorEntry, read: Callable[[TensorEntry], bytes]) -> float:
    """The finite number that a tensor without a dimension holds.

    Raises:
        InvalidAdapterError: ``alpha_invalid``.
    """
    if entry.shape or entry.dtype not in {*_PLACES, "BF16"}:
        raise InvalidAdapterError(
            f"Tensor {shown(entry.name)} is an alpha of shape {entry.shape} and dtype {entry.dtype}; one number is "
            "expected. Save the LoRA again.",
            code="alpha_invalid",
        )
    data = read(entry)
    wide, dtype = (b"\0\0" + data, "<f") if entry.dtype == "BF16" else (data, _PLACES[entry.dtype])
    alpha = float(struct.unpack(dtype, wide)[0])
    if not math.isfinite(alpha):
        raise InvalidAdapterError(
            f"Tensor {shown(entry.name)} is an alpha of {alpha}, by which nothing can be scaled. Save the LoRA again.",
            code="alpha_invalid",
        )
    return alpha


def _check_said(header: Header, ranks: Mapping[str, int | None]) -> None:
    """Check that an alpha of the metadata is the rank of every pair, where no tensor has one."""
    for key in _SAID:
        try:
            alpha = float(header.metadata.get(key, ""))
        except ValueError:
            continue
        if any(rank not in (alpha, None) for rank in ranks.values()):
            raise InvalidAdapterError(
                f"The file's metadata says {key} {shown(header.metadata[key])}, and no tensor does: most readers then "
                "take the rank, so it is not known which is meant. Write the alpha tensors that were trained with, or "
                f"remove {key}.",
                code="alpha_unclear",
            )


def as_bytes(document: Mapping[str, Any]) -> bytes:
    """The configuration as a file; equal ones are equal bytes."""
    return (json.dumps(document, indent=2, sort_keys=True) + "\n").encode()
