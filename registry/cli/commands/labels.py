"""Commands that change names and labels: rename, base rename, and card."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from registry.cli.options import Json, Url
from registry.cli.session import Session, session
from registry.errors import NotFoundError, RegistryError, UsageError
from registry.figures import BEHIND, Cell, counted, phrase, quiet, reference, words
from registry.folders.local_files import in_words, unreadable_file
from registry.schemas.frames import Block, pairs

if TYPE_CHECKING:
    from registry.schemas.labels import AlsoKnownAs, Card, Renamed


def card(
    ref: Annotated[str, typer.Argument(metavar="REF", help="The adapter; with @N, the README.md of that revision.")],
    *,
    file: Annotated[
        Path | None, typer.Option("--file", metavar="FILE", help="Replace the card with this file; '-' reads stdin.")
    ] = None,
    edit: Annotated[bool, typer.Option("--edit", help="Open the card in $VISUAL or $EDITOR.")] = False,
    remove: Annotated[bool, typer.Option("--remove", help="Go back to the published README.md.")] = False,
    url: Url = None,
    as_json: Json = False,
) -> None:
    """Print or edit the card of an adapter.

    The card is the README.md that was published last, until somebody edits it. An edited card can change at any time;
    what was published stays as it is.
    """
    if (file is not None) + edit + remove > 1:
        raise UsageError("--file, --edit and --remove change the card in different ways; give one of them.")
    with session(url, as_json) as run:
        if not edit and not remove and file is None:
            _print(run, run.registry.card(ref))
            return
        if "@" in ref:
            raise UsageError(f"{ref} is a revision, and a card is of an adapter: give {ref.partition('@')[0]}.")
        answer = _edited(run, ref) if edit else run.registry.set_card(ref, None if file is None else _read(file))
        if answer is None:
            run.say("Nothing was changed.")
            return
        run.answer(answer, lambda _: ())
        run.say(f"The card of {ref} is {'the published README.md again' if remove else 'changed'}.")


def _print(run: Session, found: Card) -> None:
    if found.state is None:
        raise NotFoundError(f"{found.path} has no card: write one with `registry card {found.path} --edit`.")
    if run.as_json:
        run.answer(found, lambda _: ())
    else:
        text = found.text if found.text.endswith("\n") else found.text + "\n"
        # On a terminal, a text must not move the cursor or change colours; in a pipe it is what was written.
        sys.stdout.write(_harmless(text) if run.out.on_terminal else text)


def _harmless(text: str) -> str:
    return "".join(one if one.isprintable() or one in "\n\t" else "\ufffd" for one in text.replace("\r\n", "\n"))


def _read(file: Path) -> str:
    """The text of a file or of stdin.

    Raises:
        NotFoundError, NotAllowedError, UnavailableError: it can't be read.
        UsageError: it is no UTF-8.
    """
    name = "stdin" if str(file) == "-" else str(file)
    try:
        data = sys.stdin.buffer.read() if str(file) == "-" else file.read_bytes()
    except OSError as problem:
        raise unreadable_file(file, problem) from None
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as problem:
        raise UsageError(f"{name} is no UTF-8 text, at byte {problem.start}.") from problem


def _edited(run: Session, ref: str) -> Card | None:
    """The card after it was edited; None if it was left as it was. A text that is refused stays in its file."""
    before = run.registry.card(ref)
    handle, name = tempfile.mkstemp(prefix="registry-card-", suffix=".md")
    place, given = Path(name), before.text.encode("utf-8")
    with os.fdopen(handle, "wb") as stream:
        stream.write(given)
    try:
        _open_in_editor(place)
        changed = place.read_bytes() != given
        answer = run.registry.set_card(ref, _read(place), expected=before.digest) if changed else None
    except RegistryError:
        if place.read_bytes() != given:
            run.say(f"Your text is kept in {place}.")
        else:
            place.unlink()
        raise
    place.unlink()
    return answer


def _open_in_editor(place: Path) -> None:
    """Run the user's editor on a file until it is closed.

    Raises:
        UsageError: no editor is set, or it failed.
    """
    editor = os.environ.get("VISUAL") or os.environ.get("EDITOR") or ("notepad" if os.name == "nt" else "vi")
    try:
        command = [*shlex.split(editor), str(place)]
        code = subprocess.run(command, check=False).returncode  # noqa: S603 - the command is the user's own
    except (OSError, ValueError) as problem:
        raise UsageError(
            f"The editor {editor!r} can't be run ({in_words(problem)}): set EDITOR, or give --file."
        ) from None
    if code != 0:
        raise UsageError(f"The editor {editor!r} ended with exit code {code}, so the card was not changed.")


def known_as(answer: AlsoKnownAs) -> Iterator[Block]:
    """The base model, its source, and its other repo ids."""
    names = [phrase(repo_id) for repo_id in answer.repo_ids]
    yield pairs(answer.base, [("source", phrase(answer.source)), ("also known as", names)])


def after_renaming(run: Session, answer: Renamed, *_: object) -> None:
    """What an admin has to do, and that the old name goes on."""
    for left in answer.tags_left:
        run.say(f"An admin sets the protected tag with `registry tag {left.reference} {left.tag}`.")
    if answer.already:
        run.say(f"{answer.path} had been renamed already: nothing was changed.")
    else:
        run.say(f"{answer.path} goes on as an old name; nothing can be published to it.")


def renamed(answer: Renamed) -> Iterator[Block]:
    """The new name alone first, for scripts; then what it has, and what only the old one has."""
    kept = counted(answer.materialisations, "materialisation")
    rows: list[tuple[str, Cell]] = [
        ("was", reference(answer.path)),
        ("has", f"{counted(answer.adapters, 'adapter')}, {counted(answer.revisions, 'revision')}"),
        ("not set", [words(f"protected tag {left.tag} of {left.reference}", BEHIND) for left in answer.tags_left]),
        ("not copied", quiet(f"{kept}: of the old name" if answer.materialisations else "")),
    ]
    yield pairs(answer.renamed_to, rows)
