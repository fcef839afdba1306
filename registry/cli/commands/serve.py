"""The command serve."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Final

import typer

from registry.cli.options import Json, Url
from registry.settings.parsers import MAX_WORKERS

LOOPBACK: Final = "127.0.0.1"
PORT: Final = 8321


class AnonymousRight(StrEnum):
    """Values of ``--anonymous``."""

    READ = "read"


def serve(
    *,
    host: Annotated[
        str,
        typer.Option(
            "--host", metavar="HOST", help="The address to listen on; 0.0.0.0 for all addresses of this machine."
        ),
    ] = LOOPBACK,
    port: Annotated[
        int, typer.Option("--port", metavar="PORT", min=0, max=65535, help="The port; 0 chooses a free one.")
    ] = PORT,
    anonymous: Annotated[
        AnonymousRight | None, typer.Option("--anonymous", help="Allow reading without a token.")
    ] = None,
    workers: Annotated[
        int | None,
        typer.Option(
            "--workers", metavar="N", min=1, max=MAX_WORKERS, help="Processes that answer on the port; 1 by default."
        ),
    ] = None,
    url: Url = None,
    as_json: Json = False,
) -> None:
    """Serve this registry over HTTP.

    Serves a folder or, with REGISTRY_DATABASE_URL and REGISTRY_STORE_URL, a team's database and store. A registry
    without tokens is served on loopback only, where it is open to everyone on this machine. On SIGTERM and Ctrl-C,
    requests in progress are finished first. With --workers (or REGISTRY_WORKERS) several processes share the port: they
    answer more requests a second, and are started again if they die.
    """
    del as_json  # nothing is printed on stdout: the log is JSON, and so are errors with --json
    from registry.app import serve as serve_registry

    serve_registry(url, host=host, port=port, anonymous="none" if anonymous is None else "read", workers=workers)
