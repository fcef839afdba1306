"""Servers that the parts about a team's registry measure on: PostgreSQL as it comes, durable, and an S3 server."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

from benchmarks.running import Conditions
from tests.kit.servers import DURABLE, NO_ETAGS, Postgres, S3Server
from tests.kit.servers_home import Home


@dataclass(frozen=True)
class Servers:
    """Both servers, a folder, and what ends with them."""

    home: Home
    postgres: Postgres
    s3: S3Server
    scratch: Path
    until: ExitStack


@contextmanager
def servers(run: Conditions) -> Iterator[Servers]:
    """Start both; all of it is gone afterwards."""
    run.cache.mkdir(parents=True, exist_ok=True)
    with ExitStack() as until:
        scratch = Path(until.enter_context(tempfile.TemporaryDirectory(prefix="service-", dir=run.cache)))
        home = Home.of_process(scratch)
        until.callback(home.leave)
        postgres = until.enter_context(closing(Postgres.started(home, DURABLE)))
        s3 = until.enter_context(closing(S3Server.started(home, NO_ETAGS)))
        yield Servers(home, postgres, s3, scratch, until)
