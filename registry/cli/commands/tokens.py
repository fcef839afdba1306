"""Commands for tokens: create, list, revoke."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from registry.cli import completion
from registry.cli.options import Json, RoleName, Url, parse_expiry
from registry.cli.render.screen import QUIET, REFERENCE, Line, Span, phrase, table, words
from registry.cli.render.text import clean, moment
from registry.cli.session import session

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


def list_(url: Url = None, as_json: Json = False) -> None:
    """List all tokens, newest first, without their secrets."""
    with session(url, as_json) as run:
        answer = run.registry.tokens()
        run.answer(answer, lambda width: token_lines(answer, width))
        if not answer:
            run.say(f"No tokens in {run.registry.url} yet; create one with `registry token create --role ROLE`.")


def revoke(
    token: Annotated[str, typer.Argument(metavar="ID", help="The id of the token, as `token list` shows it.")],
    url: Url = None,
    as_json: Json = False,
) -> None:
    """Revoke a token immediately."""
    with session(url, as_json) as run:
        answer = run.registry.revoke_token(token)
        run.answer(answer, lambda _width: [(phrase(answer.id, REFERENCE), Span(" revoked"))])
        run.say(f"The token was {_about(answer)}.")


def _about(token: Token) -> str:
    name = f" ({clean(token.name)})" if token.name else ""
    until = f", until {moment(token.expires_at)} UTC" if token.expires_at else ""
    return f"{token.id}{name}: {token.role} of {' and '.join(token.scopes) or 'everything'}{until}"


def token_lines(tokens: Sequence[Token], width: int | None) -> list[Line]:
    """One line per token."""
    rows = [
        (
            [
                phrase(token.id, REFERENCE if token.revoked_at is None else QUIET),
                Span(token.role),
                Span(moment(token.created_at)),
                Span("never" if token.last_used_at is None else moment(token.last_used_at)),
            ],
            [
                [phrase(token.name)],
                *([[phrase(scope)] for scope in token.scopes] or [[Span("everything", QUIET)]]),
                words(_ending(token), QUIET),
            ],
        )
        for token in tokens
    ]
    return table(rows, width, header=("ID", "ROLE", "CREATED (UTC)", "LAST USED", "NAME, SCOPES"))


def _ending(token: Token) -> str:
    if token.revoked_at is not None:
        return f"revoked {moment(token.revoked_at)}"
    return "" if token.expires_at is None else f"expires {moment(token.expires_at)}"
