"""The text of an artifact's README.md, from what can't change: digests, the base model's files, the last configuration.

It is the same for every token and under every name that the revision has: revisions are digests.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, Final

from registry.digest import StoredFile
from registry.folders.scan import README
from registry.schemas import ArtifactKind
from registry.schemas.artifacts import KINDS
from registry.schemas.weights import as_read
from registry.services.artifacts.readme import front_matter
from registry.tensors.artifacts.artifact import ArtifactFile, generated_file
from registry.tensors.artifacts.plan import Plan
from registry.tensors.lineage.paths import Blobs, Link, LoadedPath, read_blob
from registry.transfer.model_files import CONFIG

MOST_README: Final = 256 << 10  # bytes of a README.md that are read

LICENCE: Final = ("license", "license_name", "license_link")
"""Fields of front matter that give the licence, the first one always."""
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
    """Facts about a base model from its files."""

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
    """Facts in a base model's configuration and card; its files are read once per process."""
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
    """A stored README.md; None: it does not exist, is too long, or is no text."""
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
    """What a path is for: what its last adapter was trained for or, if that is not given, the base model."""
    said = None if adapter_config is None else adapter_config.get("task_type")
    return (_OF_TASK_TYPE.get(said) if isinstance(said, str) else None) or base.pipeline_tag


def library(base: BaseFacts, kind: ArtifactKind, *, is_base: bool) -> str | None:
    """The library that loads an artifact of this kind, if known."""
    return base.library if is_base or KINDS[kind].is_model else "peft"


TAKEN: Final = ("language", "datasets", "tags")
"""Fields of the published README.md that hold for what is computed of its revision, too."""
_LIBRARIES: Final[dict[str, str]] = {"diffusers": "diffusers", "gguf": "gguf", "mlx": "mlx"}
"""Layout -> what loads it, where that is not PEFT."""
_DTYPES: Final = {
    "bf16": " Its weights were converted to bfloat16.",
    "fp16": " Its weights were converted to float16.",
    "fp32": " Its weights were converted to float32.",
    "fp8": " What it changes is on the grid of the base model's codes.",
    "keep": " What the path does not change is quantised as the base model is.",
}


def readme_file(
    blobs: Blobs, path: LoadedPath, plan: Plan, adapter_config: Mapping[str, Any], ancestor: LoadedPath | None
) -> ArtifactFile:
    """README.md of a path with at least one link.

    Args:
        blobs: where the files of the path are read from.
        path: the path down to the revision.
        plan: of the artifact, with the ranks of a truncation.
        adapter_config: of the last link.
        ancestor: the path of ``since``, whose merged model the artifact applies to.
    """
    tip = path.links[-1]
    stored = next((file for file in tip.files if file.path == README), None)
    published = readme_text(blobs, stored)
    metadata, body = front_matter.split(published or "")
    facts = base_facts(blobs, path.base.files)
    fields = fields_of(facts, metadata, plan.kind, adapter_config, plan.base_model)
    if plan.layout is not None:
        fields["library_name"] = _LIBRARIES.get(plan.layout, fields["library_name"])
    parts = [
        front_matter.written(fields),
        "# Merged model" if KINDS[plan.kind].is_model else "# Composed adapter",
        about(plan, len(path.live) - (len(ancestor.live) if ancestor else 0), exact=path.exact is not None),
        "## Lineage",
        "Root first; each revision was trained on the one above it.",
        _lineage(path, plan),
        *quoted(tip, stored is not None, None if published is None else body),
    ]
    return generated_file(README, text_of(parts))


def text_of(parts: Iterable[str]) -> bytes:
    """A README.md of these parts."""
    return ("\n\n".join(parts).rstrip() + "\n").encode("utf-8")


def fields_of(
    facts: BaseFacts,
    metadata: front_matter.Metadata,
    kind: ArtifactKind,
    adapter_config: Mapping[str, Any],
    base_model: str | None,
) -> dict[str, Any]:
    """The front matter in its order; ``metadata`` is that of the published README.md."""
    relation = "finetune" if KINDS[kind].is_model else "adapter"
    return {
        "base_model": base_model,
        "base_model_relation": None if base_model is None else relation,
        "library_name": library(facts, kind, is_base=False),
        **facts.licence,
        "pipeline_tag": pipeline_tag(facts, adapter_config),
        **{key: list(found) for key in TAKEN if (found := front_matter.texts(metadata.get(key)))},
    }


def about(plan: Plan, count: int, *, exact: bool) -> str:
    """What an artifact of ``count`` adapters is; ``exact``: on a full fine-tune in the path."""
    if exact and not count and KINDS[plan.kind].is_model:
        dtype = _DTYPES[plan.dtype] if plan.dtype else ""
        return f"A full fine-tune of the base model, as it was published.{dtype}"
    adapters = "one adapter" if count == 1 else f"{count} adapters"
    if KINDS[plan.kind].is_model:
        dtype = _DTYPES[plan.dtype] if plan.dtype else ""
        what = "A full fine-tune of the base model with" if exact else "The base model with"
        after = " after it" if exact else ""
        return f"{what} the {adapters} of this path{after} merged into its weights.{dtype}"
    on, those = "the base model", f"the {adapters} of this path"
    if plan.since is not None:
        on, those = "the merged model of an ancestor", f"the {adapters} of this path after that one"
    verb = "equals" if plan.ranks is None else "approximates, by lower ranks,"
    return f"One LoRA adapter for {on}; it {verb} {those}."


def _lineage(path: LoadedPath, plan: Plan) -> str:
    weights = {digest: f" (with the weight {as_read(weight)})" for digest, weight in path.weights.items()}
    marks = {plan.since or path.base.digest: " (what it applies to)" if KINDS[plan.kind].is_composed else ""}
    marks[path.tip] = " (this one)"
    marks |= {digest: marks.get(digest, "") + weight for digest, weight in weights.items()}
    return lineage_table(("base model", *("revision" for _ in path.links)), path, marks)


def lineage_table(names: Sequence[str], path: LoadedPath, marks: Mapping[str, str]) -> str:
    """The lineage, root first: the name and digest of each link, with remarks about some digests."""
    digests = (path.base.digest, *(link.digest for link in path.links))
    rows = zip(names, digests, strict=True)
    lines = (f"| {what}{marks.get(digest, '')} | `{digest}` |" for what, digest in rows)
    return "\n".join(("| | digest |", "|---|---|", *lines))


def quoted(tip: Link, there: bool, body: str | None) -> Iterator[str]:
    """The README.md that was published with the revision, last, so that nothing in it can swallow what is ours."""
    if not there:
        return
    yield "## README of the revision"
    if body is None:
        yield f"Left out: it is no UTF-8 text, or longer than {MOST_README >> 10} KiB. The published files have it."
    else:
        yield f"As it was published with `{tip.digest}`:"
        yield body
