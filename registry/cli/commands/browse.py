"""Commands that read the catalogue: base list, tree, log, show, resolve, search."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Annotated, Final

import typer

from registry.cli import completion
from registry.cli.options import AdapterPath, Json, OldNames, Ref, Url
from registry.cli.session import session
from registry.schemas.renaming import old_name_notices

if TYPE_CHECKING:
    from registry.schemas import Tree

_CONDITION: Final = re.compile(r"\w\s*(<=|>=|<|>|=)\s*[0-9.]+\s*")


def base_list(
    old_names: OldNames = False,
    figures: Annotated[
        bool, typer.Option("--figures", help="Also list revisions, their size, and the newest one.")
    ] = False,
    url: Url = None,
    as_json: Json = False,
) -> None:
    """List the base models."""
    from registry.cli.render.lists import base_lines

    with session(url, as_json) as run:
        answer = run.registry.bases(old_names=old_names, figures=figures)
        run.answer(answer, lambda width: base_lines(answer, width))
        if not answer:
            run.say(f"No base models in {run.registry.url} yet; add one with `registry base add NAME DIR`.")


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
    from registry.cli.render.log import log_lines

    with session(url, as_json) as run:
        answer = run.registry.log(path, limit=limit, deleted=deleted)
        run.answer(answer, lambda width: log_lines(answer, width))
        run.notices(old_name_notices(answer.path, next((one.renamed_to for one in answer.revisions), None)))


def show(ref: Ref, *, url: Url = None, as_json: Json = False) -> None:
    """Show everything about a revision or a base model."""
    from registry.cli.render.details import show_lines

    with session(url, as_json) as run:
        answer = run.registry.show(ref)
        run.answer(answer, lambda width: show_lines(answer, width))
        if answer.revision is not None and not answer.revision.statistics:
            run.next(("registry", "stats", answer.revision.reference), "computes what it changed")


def resolve(ref: Ref, *, url: Url = None, as_json: Json = False) -> None:
    """Print the lineage that a reference resolves to now.

    Root first, one line per link, with full digests.
    """
    from registry.cli.render.lists import resolve_lines

    with session(url, as_json) as run:
        answer = run.registry.resolve(ref)
        run.answer(answer, lambda width: resolve_lines(answer, width))
        run.notices(old_name_notices(answer.reference, answer.renamed_to))


def search(
    text: Annotated[
        str | None, typer.Argument(metavar="TEXT", help="Words to find in the path, message, tags or annotations.")
    ] = None,
    *,
    base: Annotated[
        str | None,
        typer.Option(
            "--base", metavar="BASE", help="Only adapters of this base model.", autocompletion=completion.bases
        ),
    ] = None,
    path: Annotated[
        str | None,
        typer.Option(
            "--path", metavar="PATH", help="Only what is at and under this path.", autocompletion=completion.paths
        ),
    ] = None,
    depth: Annotated[
        int | None, typer.Option("--depth", min=0, metavar="N", help="Only this many levels below the path.")
    ] = None,
    tag: Annotated[str | None, typer.Option("--tag", metavar="TAG", help="Only revisions with this tag.")] = None,
    author: Annotated[
        str | None, typer.Option("--author", metavar="NAME", help="Only what was published under this name.")
    ] = None,
    parent_known_by: Annotated[
        str | None,
        typer.Option(
            "--parent-known-by",
            metavar="WORD",
            help="Only revisions whose parent is proven, stated or assumed, or known by an exact word: loaded.",
        ),
    ] = None,
    rank: Annotated[
        str | None,
        typer.Option("--rank", metavar="CONDITION", help="Only revisions whose rank meets this: '<=16', '8'."),
    ] = None,
    metric: Annotated[
        str | None,
        typer.Option("--metric", metavar="CONDITION", help="Only revisions whose metric meets this: 'acc>0.8'."),
    ] = None,
    stat: Annotated[
        list[str] | None,
        typer.Option("--stat", metavar="CONDITION", help="Only revisions with this statistic: 'rank95<8'; repeatable."),
    ] = None,
    target: Annotated[
        str | None, typer.Option("--target", metavar="NAME", help="Only adapters with this target module: q_proj.")
    ] = None,
    sort: Annotated[
        str | None, typer.Option("--sort", metavar="ORDER", help="Best first: max:acc, min:loss, min:stat:rank95.")
    ] = None,
    all_revisions: Annotated[
        bool, typer.Option("--all-revisions", help="Every matching revision, not only the newest of each adapter.")
    ] = False,
    old_names: OldNames = False,
    limit: Annotated[
        int | None, typer.Option("--limit", min=1, metavar="N", help="List at most this many revisions.")
    ] = None,
    url: Url = None,
    as_json: Json = False,
) -> None:
    """Find revisions that meet all conditions.

    Of each adapter, the newest matching revision is shown, or with --all-revisions all of them.
    """
    from registry.cli.render.lists import search_lines

    with session(url, as_json) as run:
        answer = run.registry.search(
            text,
            base=base,
            path=path,
            depth=depth,
            tag=tag,
            author=author,
            parent_known_by=parent_known_by,
            rank=rank,
            metric=metric,
            stat=",".join(stat) if stat else None,
            target=target,
            sort=sort,
            all_revisions=all_revisions,
            old_names=old_names,
            limit=limit,
        )
        run.answer(answer, lambda width: search_lines(answer, width))
        if not answer.revisions:
            run.say("No revisions match.")
            if target and "," in target:
                run.say(f"--target takes the name of one module, such as {target.split(',')[0]}, and none has a comma.")
            if text and _CONDITION.search(text):
                run.say(f"It was searched as a text; a metric is searched by --metric {text.replace(' ', '')!r}.")
        for sentence in answer.notices:
            run.say(sentence)
