"""README.md of a composed or merged artifact, made of what can't change: digests, and files of the path.

It is the same for every token and under every name that the revision has: revisions are digests.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

from registry.folders.scan import README
from registry.schemas.kinds import KINDS
from registry.services.artifacts.readme import front_matter
from registry.services.artifacts.readme.facts import (
    MOST_README,
    BaseFacts,
    base_facts,
    library,
    pipeline_tag,
    readme_text,
)
from registry.services.lineage import Blobs, Link, LoadedPath
from registry.tensors.artifacts.artifact import ArtifactFile, generated_file
from registry.tensors.artifacts.plan import Plan

_TAKEN: Final = ("language", "datasets", "tags")
"""Fields of the published README.md that hold for what is computed of its revision, too."""
_DTYPES: Final = {"bf16": "bfloat16", "fp16": "float16", "fp32": "float32"}


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
    parts = [
        _front_matter(facts, metadata, plan, adapter_config),
        "# Merged model" if KINDS[plan.kind].is_model else "# Composed adapter",
        _about(plan, len(path.links) - (len(ancestor.links) if ancestor else 0)),
        "## Lineage",
        "Root first; each revision was trained on the one above it.",
        _lineage(path, plan),
        *_quoted(tip, stored is not None, None if published is None else body),
    ]
    return generated_file(README, ("\n\n".join(parts).rstrip() + "\n").encode("utf-8"))


def _front_matter(
    facts: BaseFacts, metadata: front_matter.Metadata, plan: Plan, adapter_config: Mapping[str, Any]
) -> str:
    """YAML in a fixed order; every text in it is quoted."""
    is_model = KINDS[plan.kind].is_model
    fields: dict[str, Any] = {
        "base_model": plan.base_model,
        "base_model_relation": "finetune" if is_model else "adapter",
        "library_name": library(facts, plan.kind, is_base=False),
        **facts.licence,
        "pipeline_tag": pipeline_tag(facts, adapter_config),
        **{key: list(found) for key in _TAKEN if (found := front_matter.texts(metadata.get(key)))},
    }
    lines = [line for key, value in fields.items() if value is not None for line in _field(key, value)]
    return "\n".join(("---", *lines, "---"))


def _field(key: str, value: object) -> Iterator[str]:
    if isinstance(value, list):
        yield f"{key}:"
        yield from (f"- {front_matter.quoted(one)}" for one in value)
    else:
        yield f"{key}: {front_matter.quoted(str(value))}"


def _about(plan: Plan, count: int) -> str:
    adapters = "one adapter" if count == 1 else f"{count} adapters"
    if KINDS[plan.kind].is_model:
        dtype = f" Its weights were converted to {_DTYPES[plan.dtype]}." if plan.dtype else ""
        return f"The base model with the {adapters} of this path merged into its weights.{dtype}"
    on, those = "the base model", f"the {adapters} of this path"
    if plan.since is not None:
        on, those = "the merged model of an ancestor", f"the {adapters} of this path after that one"
    verb = "equals" if plan.ranks is None else "approximates, by lower ranks,"
    return f"One LoRA adapter for {on}; it {verb} {those}."


def _lineage(path: LoadedPath, plan: Plan) -> str:
    rows = [("base model", path.base.digest), *(("revision", link.digest) for link in path.links)]
    marks = {plan.since or path.base.digest: " (what it applies to)" if KINDS[plan.kind].is_composed else ""}
    marks[path.tip] = " (this one)"
    lines = (f"| {what}{marks.get(digest, '')} | `{digest}` |" for what, digest in rows)
    return "\n".join(("| | digest |", "|---|---|", *lines))


def _quoted(tip: Link, there: bool, body: str | None) -> Iterator[str]:
    """The README.md that was published with the revision, last, so that nothing in it can swallow what is ours."""
    if not there:
        return
    yield "## README of the revision"
    if body is None:
        yield f"Left out: it is no UTF-8 text, or longer than {MOST_README >> 10} KiB. The published files have it."
    else:
        yield f"As it was published with `{tip.digest}`:"
        yield body
