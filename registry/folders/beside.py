"""What lies in a fetched folder beside the artifact's own files, and which of it programs load together with them.

Programs find weights, configurations, tokenizers and code by fixed names, so a file that is not the artifact's can make
a folder mean other weights though each file of the artifact is right: transformers puts an adapter that lies beside a
model on top of it, vLLM takes every weight file, remote code replaces the model's. It happens where a trainer's output
folder is the folder that it trained on. The rules are of names, and rather too wide: read from transformers 5.24
(``utils``, every tokenizer's ``vocab_files_names``, processors, ``custom_generate``), PEFT 0.21, diffusers 0.42 and
sentence-transformers 6.2; a test looks whether what is installed reads others.
"""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from registry.folders.scan import ADAPTER_CONFIG, RECEIPT, is_trainer_state

_WEIGHTS: Final = (
    *(".safetensors", ".bin", ".pt", ".pth", ".ckpt", ".h5", ".msgpack", ".gguf", ".ggml", ".npz", ".pkl", ".pickle"),
    *(".joblib", ".onnx", ".onnx_data", ".xml", ".dduf", ".tflite", ".exact"),
)
_CODE: Final = (".py", ".jinja")
_VOCABULARIES: Final = (".model", ".spm", ".bpe", ".codes", ".tiktoken", ".vocab")
_JSON: Final = re.compile(
    # configurations and indexes, of any part of a model or pipeline
    r".*(config|index|modules?|params|calibration|decision).*\.json"
    # tokenizers
    r"|.*(vocab|token|template).*\.json|(merges|emoji|tekken|normalizer|byte_maps|idf|word_.*|speaker_.*)\.json"
)
_TEXT: Final = re.compile(r"(vocab|merges|dict).*\.txt")
_OF_A_TRAINER: Final = re.compile(r"random_states_\d+\.pkl|user_content\.pt|dataset\.pt|train-batch\.pt")
_SOME: Final = 4
"""Names in a message."""
_ENTERED: Final = re.compile(r"additional_chat_templates|custom_generate|onnx|openvino|\d+_[A-Za-z]\w*")
"""Folders that are read without being asked for; the numbered ones are the modules of sentence-transformers."""


@dataclass(frozen=True)
class Beside:
    """What a folder holds that is not the artifact's: names, and of a folder that holds nothing else its name and /."""

    loaded: tuple[str, ...] = ()  # what programs load
    others: tuple[str, ...] = ()  # such as a trainer's checkpoints

    @property
    def names(self) -> tuple[str, ...]:
        """All of it."""
        return tuple(sorted((*self.loaded, *self.others)))


def beside(folder: Path, own: Iterable[str]) -> Beside:
    """What lies in a folder beside the ``own`` files of an artifact and their receipt.

    Raises:
        OSError: the folder can't be read.
    """
    files = {RECEIPT, *own}
    found = sorted(_found(folder, "", files, _folders_of(files)))
    return Beside(
        tuple(name for name, is_loaded in found if is_loaded), tuple(name for name, is_loaded in found if not is_loaded)
    )


def _folders_of(files: Collection[str]) -> frozenset[str]:
    """The folders of some files, each with a / at its end."""
    return frozenset(name[: at + 1] for name in files for at, letter in enumerate(name) if letter == "/")


def _found(folder: Path, lead: str, own: Collection[str], holding: Collection[str]) -> Iterator[tuple[str, bool]]:
    """Everything in a folder that is not its own, and whether it is loaded; ``lead``: the folder's name and /."""
    with os.scandir(folder) as entries:
        for entry in entries:
            name = f"{lead}{entry.name}"
            if name in own:
                continue
            if not entry.is_dir():  # follows links, as programs do
                yield _spelt(name), is_loaded(entry.name)
            elif f"{name}/" in holding or (not lead and _ENTERED.fullmatch(entry.name)):
                yield from _found(Path(entry.path), f"{name}/", own, holding)
            else:
                yield f"{_spelt(name)}/", False


def is_loaded(name: str) -> bool:
    """Whether a file of this name, at the root of a model or adapter, is loaded with it."""
    name = name.lower()
    if name.startswith(".") or is_trainer_state(name) or _OF_A_TRAINER.fullmatch(name):
        return False
    return (
        name.endswith((*_WEIGHTS, *_CODE, *_VOCABULARIES))
        or _JSON.fullmatch(name) is not None
        or _TEXT.fullmatch(name) is not None
    )


def advice(loaded: Collection[str], what: str) -> str:
    """What the loaded files of something else mean for a folder of ``what``, and what to do: two clauses."""
    many = len(loaded) > 1
    of_adapter = any(name == ADAPTER_CONFIG or name.startswith("adapter_model.") for name in loaded)
    verb, them = ("are", "them") if many else ("is", "it")
    told = f"contains {named(loaded)}, which {verb} not of {what}, and programs that load the folder read {them}"
    if of_adapter:
        return f"{told}, an adapter on top of the weights: move the adapter into a folder of its own"
    return f"{told}: move {them} into another folder"


def named(names: Collection[str]) -> str:
    """A few names, and how many more there are."""
    some = sorted(names)[:_SOME]
    more = len(names) - len(some)
    return (
        f"{', '.join(some)} and {more} more" if more else " and ".join(filter(None, (", ".join(some[:-1]), some[-1])))
    )


def _spelt(name: str) -> str:
    """The name as valid UTF-8, even if the system's is not."""
    return name.encode("utf-8", "backslashreplace").decode("utf-8")
