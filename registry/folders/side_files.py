"""The files of a merged model that are not weights: the base's, and the tokenizer of the last revision that has one.

The files of a tokenizer only work together, so a revision that has a tokenizer replaces all of them. A revision that
has only chat templates replaces only those.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Final, TypeVar

T = TypeVar("T")

_DEFINITIONS: Final = frozenset(
    {
        "tokenizer.json",
        "tokenizer.model",
        "vocab.json",
        "vocab.txt",
        "spiece.model",
        "sentencepiece.bpe.model",
        "tekken.json",
    }
)
_TOKENIZER: Final = _DEFINITIONS | {
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "merges.txt",
    "normalizer.json",
}
_OF_MODEL: Final = frozenset({"config.json", "generation_config.json"})
"""What a full fine-tune says of the whole model."""
_TEMPLATES: Final = frozenset({"chat_template.jinja", "chat_template.json"})
_TEMPLATE_FOLDER: Final = "additional_chat_templates/"


def is_template(path: str) -> bool:
    """Whether the file is a chat template."""
    return path in _TEMPLATES or path.startswith(_TEMPLATE_FOLDER)


def is_definition(path: str) -> bool:
    """Whether the file holds a tokenizer's vocabulary."""
    return path in _DEFINITIONS or path == "merges.txt"


def is_tokenizer(path: str) -> bool:
    """Whether the file belongs to a tokenizer, chat templates included."""
    return path in _TOKENIZER or is_template(path)


def choose(base: Mapping[str, T], revisions: Sequence[Mapping[str, T]]) -> dict[str, T]:
    """Side files of the merged model, by name.

    Args:
        base: the base's files that are not weights.
        revisions: the files of each revision of the path, root first.
    """
    chosen = dict(base)
    for files in revisions:
        if _DEFINITIONS & files.keys():
            _replace(chosen, files, filter(is_tokenizer, files), filter(is_tokenizer, list(chosen)))
        elif any(map(is_template, files)):
            _replace(chosen, files, filter(is_template, files), filter(is_template, list(chosen)))
    return chosen


def of_exact(path: str) -> bool:
    """Whether a file of an exact revision takes the place of the base's in merged models."""
    return path in _OF_MODEL or is_tokenizer(path)


def take_model_files(side: dict[str, T], files: Mapping[str, T]) -> None:
    """Let the configurations of an exact revision, which has these files, replace those of its base model."""
    side.update({path: file for path, file in files.items() if path in _OF_MODEL})


def _replace(chosen: dict[str, T], files: Mapping[str, T], taken: Iterable[str], dropped: Iterable[str]) -> None:
    for path in list(dropped):
        del chosen[path]
    chosen.update({path: files[path] for path in taken})
