"""Commands that read the catalogue: tree, log, and what show, resolve and search say after their answer."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from registry.cli import completion
from registry.cli.options import AdapterPath, Json, OldNames, Url
from registry.cli.session import Session, session
from registry.schemas.labels import old_name_notices

if TYPE_CHECKING:
    from registry.schemas import Resolved, SearchResult, Shown, Tree

_CONDITION: Final = re.compile(r"\w\s*(<=|>=|<|>|=)\s*[0-9.]+\s*")


def tree(
    path: Annotated[
        str | None,
        typer.Argument(
            metavar="PATH", help="Show only this path and everything under it.", autocompletion=completion.paths
        ),
    ] = None,
    old_names: OldNames = False,
    depth: Annotated[
        int | None, typer.Option("--depth", min=0, metavar="N", help="Show only this many levels below it.")
    ] = None,
    limit: Annotated[
        int | None, typer.Option("--limit", min=1, metavar="N", help="Show at most this many adapters.")
    ] = None,
    after: Annotated[
        str | None, typer.Option("--after", metavar="PATH", help="Show only what comes after this adapter.")
    ] = None,
    behind: Annotated[
        bool, typer.Option("--behind", help="Show only what is on an old revision of its parent, and what is above it.")
    ] = False,
    url: Url = None,
    as_json: Json = False,
) -> None:
    """Show the tree, with the newest revision of each adapter."""
    from registry.cli.render.lists import tree_lines

    with session(url, as_json) as run:
        answer = run.registry.tree(path, old_names=old_names, depth=depth, limit=limit, after=after, behind=behind)
        bases = {} if as_json else {base.name: base for base in run.registry.bases(old_names=old_names)}
        run.answer(answer, lambda width: tree_lines(answer, bases, width, guides=run.out.on_terminal))
        if behind:
            run.say(_about_behind(answer))
        elif not answer.roots and after is None:
            run.say(f"No base models in {run.registry.url} yet; add one with `registry base add NAME DIR`.")
        if answer.next is not None:
            run.say(f"There are more adapters: go on with `--after {answer.next}`.")


def _about_behind(tree: Tree) -> str:
    first = next((one for one in tree.adapters() if one.revision is not None and one.revision.behind), None)
    if first is None or first.revision is None:
        return "Nothing is behind: every adapter is on the newest revision of its parent."
    above = first.path.rpartition("/")[0]
    return f"How far weights would move: `registry rebase {first.revision.reference} --onto {above} --dry-run`."


def log(
    path: AdapterPath,
    *,
    limit: Annotated[
        int | None, typer.Option("--limit", min=1, metavar="N", help="List at most this many revisions.")
    ] = None,
    deleted: Annotated[bool, typer.Option("--all", help="Also list the numbers of deleted revisions.")] = False,
    url: Url = None,
    as_json: Json = False,
) -> None:
    """List the revisions of an adapter, newest first."""
    from registry.cli.render.lists import log_lines

    with session(url, as_json) as run:
        answer = run.registry.log(path, limit=limit, deleted=deleted)
        run.answer(answer, lambda width: log_lines(answer, width))
        run.notices(old_name_notices(answer.path, next((one.renamed_to for one in answer.revisions), None)))


def after_showing(run: Session, answer: Shown, *_: object) -> None:
    """What is useful next: statistics, where there are none yet."""
    if answer.revision is not None and not answer.revision.statistics:
        run.next(("registry", "stats", answer.revision.reference), "computes what it changed")


def after_resolving(run: Session, answer: Resolved, *_: object) -> None:
    """That it was an old name."""
    run.notices(old_name_notices(answer.reference, answer.renamed_to))


def after_searching(run: Session, answer: SearchResult, given: Mapping[str, Any]) -> None:
    """That nothing matches, and what could not be found."""
    text = given["text"]
    if not answer.revisions:
        run.say("No revisions match.")
        if (target := given["target"]) and "," in target:
            run.say(f"--target takes the name of one module, such as {target.split(',')[0]}, and none has a comma.")
        if text and _CONDITION.search(text):
            run.say(f"It was searched as a text; a metric is searched by --metric {text.replace(' ', '')!r}.")
    for sentence in answer.notices:
        run.say(sentence)
