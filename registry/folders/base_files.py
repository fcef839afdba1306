"""Files of a base model: checked against its digests, and those that lie next to the weights of a merged model.

The files of a tokenizer only work together, so a revision that has a tokenizer replaces all of them. A revision that
has only chat templates replaces only those.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Final, NamedTuple, TypeVar

from registry.errors import IntegrityError, NotFoundError
from registry.files.hashed import HashedFile, hash_file
from registry.folders.local_files import unreadable
from registry.progress import Progress


class WeightFile(NamedTuple):
    """A file of a base model, as registered."""

    path: str
    size: int
    digest: str


def check_weights(folder: Path, base: str, files: Iterable[WeightFile], progress: Progress) -> None:
    """Check the weight files of a folder against those of the base model; the first mismatch raises.

    Raises:
        NotFoundError: a file is missing.
        IntegrityError: ``wrong_base``: a file has other bytes.
        UnavailableError: a file can't be read.
    """
    folder, wanted = folder.expanduser().absolute(), list(files)
    progress.begin("Checking the base model", sum(file.size for file in wanted))
    for file in wanted:
        place = folder / file.path
        try:
            size = place.stat().st_size
            if size != file.size:
                raise other_size(place, size, file, base)
            check_digest(hash_file(place, progress), file, base)
        except FileNotFoundError:
            raise missing(place, base) from None
        except OSError as problem:
            raise unreadable(place, problem) from problem


def check_digest(found: HashedFile, file: WeightFile, base: str) -> None:
    """Compare the digest of a hashed file with the expected one; raises `IntegrityError`, ``wrong_base``."""
    if found.digest != file.digest:
        raise IntegrityError(
            f"{found.path} is not the file of base model {base} ({found.digest} instead of {file.digest}); give the "
            "folder with the weights that were added to the registry.",
            code="wrong_base",
        )


def other_size(place: Path, size: int, file: WeightFile, base: str) -> IntegrityError:
    """The error for a file whose size already differs."""
    return IntegrityError(
        f"{place} has {size} bytes, but that file of base model {base} has {file.size}; give the folder with the "
        "weights that were added to the registry.",
        code="wrong_base",
    )


def missing(place: Path, base: str) -> NotFoundError:
    """The error for a missing file."""
    return NotFoundError(
        f"There is no {place}; the folder with the files of base model {base} is expected.", code="missing_file"
    )


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
"""The files of a full fine-tune that describe the whole model."""
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
