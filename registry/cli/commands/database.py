"""The command db upgrade."""

from __future__ import annotations

from registry.cli.options import Json, Url
from registry.cli.render.screen import BEHIND, Line, Span, phrase
from registry.cli.session import answer_alone


def upgrade(url: Url = None, as_json: Json = False) -> None:
    """Upgrade the database schema to the version of this program.

    Safe to run from several machines at once. The database of a registry in a folder is copied first. Such a registry
    is also upgraded by the first command that writes to it, which says so; commands that only read leave it as it is.
    """
    from registry.app import upgrade_database

    answer = upgrade_database(url)

    def lines(_width: int | None) -> list[Line]:
        if answer.before == answer.after:
            what = f"is already at {answer.after}"
        else:
            what = f"created at {answer.after}" if answer.before is None else f"{answer.before} -> {answer.after}"
        copies = [] if answer.copied_to is None else [(Span(f"its database of before: {answer.copied_to}", BEHIND),)]
        notices = [(Span(notice, BEHIND),) for notice in answer.notices]
        return [(phrase(answer.database), Span(f"  {what}")), *copies, *notices]

    answer_alone(answer, lines, as_json=as_json)
