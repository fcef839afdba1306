"""The kinds of folders that a heap has, as one table: told by names alone, in this order."""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass
from typing import Final, Literal

from registry.folders.scan import ADAPTER_CONFIG, ADAPTER_WEIGHTS

Taken = Literal["adapter", "model"]


@dataclass(frozen=True)
class Kind:
    """A kind of folder: it has a file of one of these names, and one of those beside it."""

    what: str
    names: re.Pattern[str]
    beside: re.Pattern[str] | None = None
    taken: Taken | None = None  # None: it stays where it is
    why: str | None = None  # None: the sentence that publishing it gives
    single: bool = False  # each file of these names is one of its own


def _any(*patterns: str) -> re.Pattern[str]:
    return re.compile("|".join(patterns))


_WEIGHTS: Final = r".*\.safetensors"
_PICKLED: Final = r"pytorch_model.*\.bin"

KINDS: Final = (
    Kind("adapter", _any(re.escape(ADAPTER_CONFIG)), taken="adapter"),
    Kind("adapter without its configuration", _any(r"adapter_model\..*"), taken="adapter"),
    Kind("LoRA of mlx-lm", _any(r"adapters\.(safetensors|npz)"), taken="adapter"),
    Kind("LoRA of diffusers", _any(r"pytorch_lora_weights\..*"), taken="adapter"),
    Kind("model", _any(r"config\.json"), _any(_WEIGHTS, _PICKLED), taken="model"),
    Kind("model", _any(r"(model|pytorch_model)(-\d+-of-\d+)?\.(safetensors|bin)"), taken="model"),
    Kind(
        "DeepSpeed state",
        _any(r"zero_to_fp32\.py", r".*_model_states\.pt", r".*_optim_states\.pt"),
        why="state of DeepSpeed, which holds optimiser states in pickles: run its zero_to_fp32.py to get weights, and "
        "save them with save_pretrained",
    ),
    Kind(
        "FSDP state",
        _any(r".*\.distcp"),
        why="sharded state of FSDP: turn it into safetensors with `accelerate merge-weights` first",
    ),
    Kind("weights in one file", _any(_WEIGHTS), taken="adapter", single=True),
    Kind("weights for llama.cpp", _any(r".*\.(gguf|ggml)"), taken="adapter"),
    Kind(
        "pickled weights",
        _any(r".*\.(bin|pt|pth|ckpt)"),
        why="its weights are pickles, of which only adapter_model.bin beside an adapter_config.json is read; save them "
        "as safetensors",
    ),
)
"""`Kind.taken`: what is tried with it, so that it is refused with the very sentence of that."""

NOT_ENTERED: Final = re.compile(r"\..*|__pycache__|global_step\d+|wandb|mlruns|runs-tensorboard|node_modules")
"""Names of folders that are not looked into: hidden ones, and what programs keep there."""

CHECKPOINT: Final = re.compile(r"checkpoint-(\d+)")
HUB_REPO: Final = re.compile(r"models--([^/]+?)--([^/]+)")
"""A repository in a cache of the Hub's client."""

_STATE: Final = re.compile(r"(training_args|optimizer|scheduler|scaler)\.(bin|pt)|rng_state.*")


def kind_of(names: Collection[str]) -> Kind | None:
    """The kind of a folder with files of these names; None: nothing that a registry is about."""
    said = [name for name in names if not name.startswith(".") and _STATE.fullmatch(name) is None]
    for kind in KINDS:
        if any(kind.names.fullmatch(name) for name in said) and (
            kind.beside is None or any(kind.beside.fullmatch(name) for name in said)
        ):
            return kind
    return None


def holds_model_too(names: Collection[str]) -> bool:
    """Whether a folder with an adapter holds a whole model beside it: one was saved into the other's folder."""
    others = {name for name in names if name.endswith(".safetensors")} - {ADAPTER_WEIGHTS}
    return "config.json" in names and bool(others)
