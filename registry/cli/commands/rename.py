"""Commands that give other names: rename, base rename, base also-known-as."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from registry.cli.options import AdapterPath, Json, Url
from registry.cli.render.screen import BEHIND, QUIET, REFERENCE, Line, Span, fields, phrase, words
from registry.cli.render.text import counted
from registry.cli.session import Session, session

if TYPE_CHECKING:
    from registry.schemas.renaming import AlsoKnownAs, Renamed


def rename(
    path: AdapterPath,
    name: Annotated[str, typer.Argument(metavar="NAME", help="The new last name of the path.")],
    *,
    url: Url = None,
    as_json: Json = False,
) -> None:
    """Give an adapter and everything under it another last name.

    The parent stays, because it is what the adapter was trained on. Numbers, digests, metrics, annotations and tags
    are the same under the new name, except for protected tags, which an admin sets. The old name goes on: it can be
    fetched, and shows the new name. Nothing can be published to it, and lists leave it out.
    """
    with session(url, as_json) as run:
        _told(run, run.registry.rename(path, name))


def base_rename(
    name: Annotated[str, typer.Argument(metavar="NAME", help="The name of the base model.")],
    new: Annotated[str, typer.Argument(metavar="NEW", help="Its new name.")],
    *,
    url: Url = None,
    as_json: Json = False,
) -> None:
    """Give a base model and all its adapters another name.

    The old names go on: they can be fetched, and show the new ones. Nothing can be published to them, and lists leave
    them out. Protected patterns hold for the new name too; the protected tags themselves are set by an admin.
    """
    with session(url, as_json) as run:
        _told(run, run.registry.rename_base(name, new))


def base_also_known_as(
    name: Annotated[str, typer.Argument(metavar="NAME", help="The name of the base model.")],
    repo_id: Annotated[str, typer.Argument(metavar="REPO_ID", help="A repo id of a Hub: ORG/NAME.")],
    *,
    remove: Annotated[bool, typer.Option("--remove", help="Take the repo id away.")] = False,
    url: Url = None,
    as_json: Json = False,
) -> None:
    """Give a base model another repo id in the Hub views.

    It answers under the repo that it was taken from without this. Adapters that name the id as what they were trained
    on count as trained on the base model. The output lists all its repo ids.
    """
    with session(url, as_json) as run:
        answer = run.registry.also_known_as(name, repo_id, remove=remove)
        run.answer(answer, lambda width: known_as_lines(answer, width))


def known_as_lines(answer: AlsoKnownAs, width: int | None) -> list[Line]:
    """The base model, its source, and its other repo ids."""
    pairs = [
        ("source", [[phrase(answer.source)]] if answer.source else []),
        ("also known as", [[phrase(repo_id)] for repo_id in answer.repo_ids]),
    ]
    return [(Span(answer.base, REFERENCE),), *fields(pairs, width)]


def _told(run: Session, answer: Renamed) -> None:
    run.answer(answer, lambda width: renamed_lines(answer, width))
    for left in answer.tags_left:
        run.say(f"An admin sets the protected tag with `registry tag {left.reference} {left.tag}`.")
    if answer.already:
        run.say(f"{answer.path} had been renamed already: nothing was changed.")
    else:
        run.say(f"{answer.path} goes on as an old name; nothing can be published to it.")


def renamed_lines(answer: Renamed, width: int | None) -> list[Line]:
    """The new name alone first, for scripts; then what it has, and what only the old one has."""
    kept = counted(answer.materialisations, "materialisation")
    pairs = [
        ("was", [[phrase(answer.path, REFERENCE)]]),
        ("has", [words(f"{counted(answer.adapters, 'adapter')}, {counted(answer.revisions, 'revision')}")]),
        ("not set", [words(f"protected tag {left.tag} of {left.reference}", BEHIND) for left in answer.tags_left]),
        ("not copied", [words(f"{kept}: of the old name", QUIET)] if answer.materialisations else []),
    ]
    return [(Span(answer.renamed_to, REFERENCE),), *fields(pairs, width)]
