"""Commands for tokens: create, and what revoke shows."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from registry.cli import completion
from registry.cli.options import Json, RoleName, Url, parse_expiry
from registry.cli.render.screen import REFERENCE, Line, Span, phrase
from registry.cli.render.text import clean, moment
from registry.cli.session import Session, session

if TYPE_CHECKING:
    from registry.schemas import Token


def create(
    *,
    role: Annotated[
        RoleName, typer.Option("--role", help="The rights of the token; each role includes those before it.")
    ],
    scope: Annotated[
        list[str] | None,
        typer.Option(
            "--scope",
            metavar="PATH",
            help="Only this path and everything under it; may be repeated.",
            autocompletion=completion.paths,
        ),
    ] = None,
    expires: Annotated[
        str | None,
        typer.Option(
            "--expires", metavar="TIME", help="How long it is valid, such as 90d or 12h. Default: until it is revoked."
        ),
    ] = None,
    name: Annotated[
        str,
        typer.Option("--name", metavar="TEXT", help="Whom it is for: shown as the author and actor of its changes."),
    ] = "",
    url: Url = None,
    as_json: Json = False,
) -> None:
    """Create a token and print its secret.

    The secret is shown only once and is not stored. It is the only output on stdout, so that it can be written to a
    file or piped to another program. A registry in a folder becomes private: other users of the machine can no longer
    read it.
    """
    expires_in = parse_expiry(expires)
    # Creating the first token may create the registry.
    with session(url, as_json, create=True) as run:
        answer = run.registry.create_token(role.value, name=name, scopes=tuple(scope or ()), expires_in=expires_in)
        run.answer(answer, lambda _width: [(Span(answer.secret),)])
        run.say(f"Token {_about(answer.token)}. Store the secret now; it is not shown again.")


def _about(token: Token) -> str:
    name = f" ({clean(token.name)})" if token.name else ""
    until = f", until {moment(token.expires_at)} UTC" if token.expires_at else ""
    return f"{token.id}{name}: {token.role} of {' and '.join(token.scopes) or 'everything'}{until}"


def revoked_lines(answer: Token, _width: int | None) -> list[Line]:
    """The id, for scripts."""
    return [(phrase(answer.id, REFERENCE), Span(" revoked"))]


def after_revoking(run: Session, answer: Token, *_: object) -> None:
    """Whose it was."""
    run.say(f"The token was {_about(answer)}.")
