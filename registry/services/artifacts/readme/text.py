"""README.md of a composed or merged artifact, made of what can't change: digests, and files of the path.

It is the same for every token and under every name that the revision has: revisions are digests.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Final

from registry.folders.scan import README
from registry.schemas import ArtifactKind
from registry.schemas.artifacts import KINDS
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

TAKEN: Final = ("language", "datasets", "tags")
"""Fields of the published README.md that hold for what is computed of its revision, too."""
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
    parts = [
        front_matter.written(fields_of(facts, metadata, plan.kind, adapter_config, plan.base_model)),
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
    marks = {plan.since or path.base.digest: " (what it applies to)" if KINDS[plan.kind].is_composed else ""}
    marks[path.tip] = " (this one)"
    return lineage_table(("base model", *("revision" for _ in path.links)), path, marks)


def lineage_table(names: Sequence[str], path: LoadedPath, marks: Mapping[str, str]) -> str:
    """The lineage, root first: what each link is called and its digest, with what is said of some digests."""
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
