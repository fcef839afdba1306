"""Commands about credentials: login, logout, token create, and env, with which clients of the Hub use this registry."""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Iterator
from getpass import getpass
from typing import TYPE_CHECKING, Annotated

import typer

from registry.cli import completion
from registry.cli.options import Json, Url, parse_expiry
from registry.cli.render.screen import Line, stderr, stdout
from registry.cli.session import Session, answer_alone, print_json, session
from registry.errors import UsageError
from registry.figures import Cell, Span, clean, moment, phrase, quiet, reference
from registry.rights import Role
from registry.settings import SETTINGS, read_settings

if TYPE_CHECKING:
    from registry.schemas import Identity, Token
    from registry.schemas.frames import Block


def env(
    *,
    lora: Annotated[bool, typer.Option("--lora", help="Serve each path as one composed adapter for PEFT.")] = False,
    published: Annotated[bool, typer.Option("--published", help="Serve each adapter as it was published.")] = False,
    url: Url = None,
    as_json: Json = False,
) -> None:
    """Print the environment variables that point Hub clients here.

    eval "$(registry env)" sets them in a shell: transformers, PEFT, vLLM and the command hf then load the merged model
    of every path by its repo id. The token is not shown on a terminal.
    """
    from registry.app import hub_settings

    if lora and published:
        raise UsageError("--lora and --published choose different views; give one of them.")
    answer = hub_settings(url, "lora" if lora else "published" if published else "merged")
    if as_json:
        print_json(answer)
        return
    out = stdout()
    hidden = {"HF_TOKEN"} & answer.keys() if out.on_terminal else set()
    for name, value in answer.items():
        if name not in hidden:
            # not wrapped to the terminal: a shell reads it
            out.stream.write(f"export {name}={shlex.quote(value)}\n")
    out.stream.flush()
    if hidden:
        stderr().say('HF_TOKEN is not shown on a terminal; eval "$(registry env)" sets it too.', "dim")


def create(
    *,
    role: Annotated[Role, typer.Option("--role", help="The rights of the token; each role includes those before it.")],
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
        answer = run.registry.create_token(role, name=name, scopes=tuple(scope or ()), expires_in=expires_in)
        run.answer(answer, lambda one: [(Span(one.secret),)])
        run.say(f"Token {_about(answer.token)}. Store the secret now; it is not shown again.")


def _about(token: Token) -> str:
    name = f" ({clean(token.name)})" if token.name else ""
    until = f", until {moment(token.expires_at)} UTC" if token.expires_at else ""
    return f"{token.id}{name}: {token.role} of {' and '.join(token.scopes) or 'everything'}{until}"


def revoked(answer: Token) -> list[Line]:
    """The id, for scripts."""
    return [(reference(answer.id), Span(" revoked"))]


def after_revoking(run: Session, answer: Token, *_: object) -> None:
    """Whose it was."""
    run.say(f"The token was {_about(answer)}.")


def login(
    context: typer.Context,
    address: Annotated[str, typer.Argument(metavar="URL", help="The address of the service: http(s)://HOST.")],
    *,
    token: Annotated[
        str | None,
        typer.Option(
            "--token", metavar="TOKEN", help="The token's secret; - reads it from stdin. Default: REGISTRY_TOKEN."
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Store a token for a service, and use that service by default.

    The token is checked first, and stored for that host only, in a file that only you can read. Without --token and
    REGISTRY_TOKEN, login asks for it at the terminal and does not show it.
    """
    if context.find_root().params.get("url"):
        raise UsageError("login takes the address as its argument, not with --url.")
    from registry.app import log_in

    secret = _secret(token, _of_setting(address))
    answer = log_in(address, secret)
    answer_alone(answer, identity, as_json=as_json)
    url = read_settings(os.environ).url
    if not as_json and url is not None and not _is_at(address, url):
        shown = SETTINGS["url"].redact(url)
        stderr().say(f"REGISTRY_URL is {shown} and overrides this login; unset it to use {answer.url}.", "yellow")


def _is_at(address: str, url: str) -> bool:
    from registry.client.addresses import Address

    return Address.parse(address).is_origin_of(url)


def _of_setting(address: str) -> str | None:
    """The token of the settings, unless they name another registry's address."""
    settings = read_settings(os.environ)
    if settings.url is None or _is_at(address, settings.url):
        return settings.token
    return None


def _secret(given: str | None, setting: str | None) -> str | None:
    """The token's secret; None if the user gives none, for an open service."""
    if given == "-":
        return sys.stdin.readline().strip() or None
    if given is not None or setting:
        return given or setting or None
    if not sys.stdin.isatty():
        raise UsageError(
            "login needs a token, and stdin is not a terminal to prompt on: set REGISTRY_TOKEN, or give --token - and "
            "the secret on stdin."
        )
    # Not typer's prompt: it asks first and stops showing what is typed afterwards.
    return getpass("Token (not shown): ").strip() or None


def logout(
    address: Annotated[
        str | None, typer.Argument(metavar="URL", help="The service. Default: the one chosen by login.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Remove the stored token of a service.

    The token itself stays valid; `registry token revoke` revokes it.
    """
    from registry.app import log_out

    forgotten = log_out(address)
    if as_json:
        print_json({"url": forgotten})
    else:
        stdout().show([(reference(forgotten), Span("  logged out"))])


def identity(answer: Identity) -> Iterator[Block]:
    """The registry first; then the principal and its rights."""
    from registry.schemas.frames import pairs

    until = f"until {moment(answer.expires_at)} UTC" if answer.expires_at else ""
    service = "" if answer.service_version is None else f", service {answer.service_version}"
    rows: list[tuple[str, Cell]] = [
        ("name", phrase(answer.name)),
        ("role", answer.role),
        ("scopes", [phrase(scope) for scope in answer.scopes] or "everything"),
        ("token", None if answer.token is None else [phrase(answer.token), quiet(until)]),
        ("versions", f"client {answer.version}{service}") if service else ("version", answer.version),
    ]
    yield pairs(answer.url, rows)
