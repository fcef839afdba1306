"""Commands about credentials: login, logout, and what whoami shows."""

from __future__ import annotations

import os
import sys
from getpass import getpass
from typing import TYPE_CHECKING, Annotated

import typer

from registry.cli.options import Json
from registry.cli.render.screen import QUIET, REFERENCE, Line, Span, fields, phrase, stderr, stdout, words
from registry.cli.render.text import moment
from registry.cli.session import answer_alone, print_json
from registry.errors import UsageError
from registry.settings import SETTINGS, read_settings

if TYPE_CHECKING:
    from registry.schemas import Identity


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
    answer_alone(answer, lambda width: identity_lines(answer, width), as_json=as_json)
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
        stdout().show([(phrase(forgotten, REFERENCE), Span("  logged out"))])


def identity_lines(identity: Identity, width: int | None) -> list[Line]:
    """The registry first; then the principal and its rights."""
    token = [] if identity.token is None else [phrase(identity.token)]
    until = f"until {moment(identity.expires_at)} UTC" if identity.expires_at else ""
    service = "" if identity.service_version is None else f", service {identity.service_version}"
    versions = f"client {identity.version}{service}" if service else identity.version
    pairs = [
        ("name", [[phrase(identity.name)]]),
        ("role", [[Span(identity.role)]]),
        ("scopes", [[phrase(scope)] for scope in identity.scopes] or [words("everything")]),
        ("token", [token, words(until, QUIET)] if token else []),
        ("versions" if service else "version", [words(versions)]),
    ]
    return [(phrase(identity.url, REFERENCE),), *fields(pairs, width)]
