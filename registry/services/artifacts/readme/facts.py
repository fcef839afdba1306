"""What a model is for, from what can't change: the base model's files and the configuration of the last adapter."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, Final

from registry.digest import StoredFile
from registry.folders.scan import README
from registry.schemas import ArtifactKind
from registry.schemas.artifacts import KINDS
from registry.services.artifacts.readme import front_matter
from registry.services.lineage import Blobs, read_blob
from registry.transfer.model_files import CONFIG

MOST_README: Final = 256 << 10  # bytes of a README.md that are read

LICENCE: Final = ("license", "license_name", "license_link")
"""Fields of front matter that say the licence, the first one always."""
_WORD: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_OF_TASK_TYPE: Final = {
    "CAUSAL_LM": "text-generation",
    "SEQ_CLS": "text-classification",
    "TOKEN_CLS": "token-classification",
    "QUESTION_ANS": "question-answering",
    "SEQ_2_SEQ_LM": "text2text-generation",
    "FEATURE_EXTRACTION": "feature-extraction",
}
_OF_ARCHITECTURE: Final = (
    ("ForCausalLM", "text-generation"),
    ("LMHeadModel", "text-generation"),
    ("ForSequenceClassification", "text-classification"),
    ("ForTokenClassification", "token-classification"),
    ("ForQuestionAnswering", "question-answering"),
    ("ForMaskedLM", "fill-mask"),
    ("ForImageClassification", "image-classification"),
    ("ForSpeechSeq2Seq", "automatic-speech-recognition"),
    ("ForCTC", "automatic-speech-recognition"),
    ("ForSeq2SeqLM", "text2text-generation"),
    ("Model", "feature-extraction"),
)


@dataclass(frozen=True)
class BaseFacts:
    """What the files of a base model say of it."""

    licence: Mapping[str, Any] = field(default_factory=dict)  # fields of front matter
    library: str | None = None
    pipeline_tag: str | None = None
    metadata: front_matter.Metadata = field(default_factory=dict)  # all of its card's


@dataclass(frozen=True)
class _Wanted:
    """A cache key: the digests of the files that are read."""

    config: str | None
    readme: str | None
    files: Mapping[str, StoredFile] = field(compare=False)
    blobs: Blobs = field(compare=False)


def base_facts(blobs: Blobs, files: Iterable[StoredFile]) -> BaseFacts:
    """What a base model's configuration and card say; its files are read once per process."""
    found = {file.path: file for file in files if file.path in {CONFIG, README}}
    digests = {path: file.digest for path, file in found.items()}
    return _base_facts(_Wanted(digests.get(CONFIG), digests.get(README), found, blobs))


@lru_cache(maxsize=256)
def _base_facts(wanted: _Wanted) -> BaseFacts:
    files, blobs = wanted.files, wanted.blobs
    metadata, _ = front_matter.split(readme_text(blobs, files.get(README)) or "")
    architecture = _architecture(blobs, files.get(CONFIG))
    return BaseFacts(
        licence={key: value for key in LICENCE if is_licence(value := metadata.get(key))},
        library=_word(metadata.get("library_name")) or ("transformers" if architecture else None),
        pipeline_tag=_word(metadata.get("pipeline_tag")) or _pipeline_of(architecture),
        metadata=metadata,
    )


def readme_text(blobs: Blobs, file: StoredFile | None) -> str | None:
    """A stored README.md; None where there is none, it is too long, or no text."""
    if file is None or file.size > MOST_README:
        return None
    try:
        return read_blob(blobs, file).decode("utf-8").replace("\0", "\ufffd")
    except UnicodeDecodeError:
        return None


def is_licence(value: object) -> bool:
    """Whether a field of `LICENCE` has a value that Hubs take: a text, or several."""
    found = value if isinstance(value, list) else [value]
    return bool(found) and all(isinstance(one, str) and 0 < len(one) <= 512 for one in found)


def _word(value: object) -> str | None:
    return value if isinstance(value, str) and _WORD.fullmatch(value) else None


def _architecture(blobs: Blobs, config: StoredFile | None) -> str | None:
    """The first of the classes that config.json names."""
    if config is None:
        return None
    try:
        document = json.loads(read_blob(blobs, config))
        found = document["architectures"][0]
    except (ValueError, TypeError, LookupError, RecursionError):
        return None
    return found if isinstance(found, str) else None


def _pipeline_of(architecture: str | None) -> str | None:
    endings = (task for ending, task in _OF_ARCHITECTURE if architecture.endswith(ending)) if architecture else ()
    return next(iter(endings), None)


def pipeline_tag(base: BaseFacts, adapter_config: Mapping[str, Any] | None) -> str | None:
    """What a path is for: what its last adapter was trained for or, where that is not said, the base model."""
    said = None if adapter_config is None else adapter_config.get("task_type")
    return (_OF_TASK_TYPE.get(said) if isinstance(said, str) else None) or base.pipeline_tag


def library(base: BaseFacts, kind: ArtifactKind, *, is_base: bool) -> str | None:
    """The library that loads an artifact of this kind, if known."""
    return base.library if is_base or KINDS[kind].is_model else "peft"
