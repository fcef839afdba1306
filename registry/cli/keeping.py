"""Commands that add to the registry: base add, publish, tag, untag, annotate."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from registry.cli.options import (
    AdapterPath,
    Annotations,
    Json,
    Metrics,
    Ref,
    Url,
    parse_annotations,
    parse_metrics,
)
from registry.cli.screen import REFERENCE, Line, Span
from registry.cli.session import Session, session
from registry.errors import UsageError

if TYPE_CHECKING:
    from registry.schemas import Published, Tagged


def base_add(
    name: Annotated[str, typer.Argument(metavar="NAME", help="The name of the base model.")],
    folder: Annotated[
        str, typer.Argument(metavar="DIR", help="The folder with its weights and configuration, or hf:ORG/REPO[@REV].")
    ],
    *,
    link: Annotated[
        bool, typer.Option("--link", help="Keep hard links to the files instead of copies (same file system).")
    ] = False,
    url: Url = None,
    as_json: Json = False,
) -> None:
    """Add a base model from a folder, or from a Hub.

    The folder is in the Hugging Face layout: config.json and safetensors files, with an index when there are several.
    The same weights again under the same name change nothing. hf:ORG/REPO[@REV] is brought from the Hub that
    HF_ENDPOINT names, with HF_TOKEN.
    """
    from registry.cli.details import base_added_lines

    with session(url, as_json, create=True) as run:
        answer = run.registry.add_base(name, folder, link=link, progress=run.progress)
        run.answer(answer, lambda width: base_added_lines(answer, width))
        run.notices(answer.base.notices)


def publish(
    folder: Annotated[
        str, typer.Argument(metavar="DIR", help="The folder that PEFT saved the adapter to, or hf:ORG/REPO[@REV].")
    ],
    path: Annotated[str, typer.Argument(metavar="PATH", help="Where it goes: BASE/name/name... With -r: BASE.")],
    *,
    recursive: Annotated[
        bool, typer.Option("-r", "--recursive", help="DIR holds nested publish folders: nesting is the path.")
    ] = False,
    parent: Annotated[
        str | None, typer.Option("--parent", metavar="REF", help="The revision it was trained on.")
    ] = None,
    receipt: Annotated[
        str | None, typer.Option("--receipt", metavar="FILE", help="The receipt of the folder it was trained on.")
    ] = None,
    message: Annotated[str, typer.Option("-m", "--message", metavar="TEXT", help="What is new.")] = "",
    metric: Metrics = None,
    tag: Annotated[
        list[str] | None, typer.Option("--tag", metavar="TAG", help="A tag to set; may be repeated.")
    ] = None,
    annotation: Annotations = None,
    url: Url = None,
    as_json: Json = False,
) -> None:
    """Publish a folder as the next revision of an adapter.

    The parent is the one that --parent names; else the receipt says it (--receipt, or that of the folder which the
    adapter was trained on); else the repo id and revision of a Hub view in the configuration; else it is the only
    revision that the parent has. It is never guessed. The first line of the answer is the reference, PATH@N, alone.
    """
    from registry.cli.details import published_lines

    if parent is not None and receipt is not None:
        raise UsageError("--parent and --receipt both name the parent; give one of them.")
    metrics, annotations = parse_metrics(metric), parse_annotations(annotation)
    if recursive:
        given = {
            "--parent": parent, "--receipt": receipt, "-m": message, "--metric": metric, "--tag": tag,
            "--annotation": annotation,
        }  # fmt: skip
        if wrong := [option for option, value in given.items() if value]:
            raise UsageError(f"{wrong[0]} is about one revision and can't be given with -r.")
    with session(url, as_json) as run:
        if recursive:
            _publish_tree(run, folder, path)
            return
        answer = run.registry.publish(
            folder,
            path,
            parent=parent,
            receipt=receipt,
            message=message,
            metrics=metrics,
            tags=tuple(tag or ()),
            annotations=annotations,
            progress=run.progress,
        )
        run.answer(answer, lambda width: published_lines(answer, width))
        run.notices(answer.revision.notices)


def _publish_tree(run: Session, folder: str, base: str) -> None:
    def published(answer: Published) -> None:
        if run.as_json:
            return
        run.progress.pause()
        run.out.show([(Span(answer.revision.reference, REFERENCE),)])
        state = "published" if answer.created else "was there already"
        run.say(f"{answer.revision.reference} {state}, parent {answer.revision.parent} ({answer.parent_reason})")
        for item in answer.left_out:
            run.say(f"left out: {item.path} ({item.reason})")
        run.notices(answer.revision.notices)

    answers = run.registry.publish_tree(folder, base, published=published, progress=run.progress)
    # Each revision was shown when it was there, so that a run that is stopped has said what it did.
    run.answer(answers, lambda _width: ())


def tag(
    ref: Ref,
    tag: Annotated[str, typer.Argument(metavar="TAG", help="The tag.")],
    url: Url = None,
    as_json: Json = False,
) -> None:
    """Let a tag name a revision.

    It moves if it named another revision of the same adapter.
    """
    with session(url, as_json) as run:
        answer = run.registry.tag(ref, tag)
        run.answer(answer, lambda _width: [_tag_line(answer, f"-> {answer.reference}")])
        if answer.previous not in {None, answer.reference}:
            run.say(f"The tag named {answer.previous} before.")


def untag(
    path: AdapterPath,
    tag: Annotated[str, typer.Argument(metavar="TAG", help="The tag.")],
    url: Url = None,
    as_json: Json = False,
) -> None:
    """Remove a tag; the revision stays."""
    with session(url, as_json) as run:
        answer = run.registry.untag(path, tag)
        run.answer(answer, lambda _width: [_tag_line(answer, f"removed, was {answer.previous}")])


def _tag_line(answer: Tagged, what: str) -> Line:
    return (Span(f"{answer.path}@{answer.tag}", REFERENCE), Span(f" {what}"))


def annotate(
    ref: Ref,
    *,
    metric: Metrics = None,
    annotation: Annotations = None,
    url: Url = None,
    as_json: Json = False,
) -> None:
    """Add or replace metrics and annotations."""
    from registry.cli.lists import search_lines
    from registry.schemas import SearchResult

    if not metric and not annotation:
        raise UsageError("annotate needs at least one --metric NAME=NUMBER or --annotation NAME=TEXT.")
    with session(url, as_json) as run:
        answer = run.registry.annotate(ref, metrics=parse_metrics(metric), annotations=parse_annotations(annotation))
        run.answer(answer, lambda width: search_lines(SearchResult(revisions=(answer,)), width))
