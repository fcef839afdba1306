"""The web pages on a large registry: 10,000 adapters of one base model, 200,000 revisions of one adapter.

Each page is asked for as a browser does, and its drawing apart. Time is that of the response in this process, on one
connection; first paint is Chromium's own mark, of a browser that has no page yet in its cache. Beside them are the
requests that MLflow's own pages make for a model of 20,000 versions, in the same browser.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

import httpx
import psutil
from playwright.sync_api import Browser, sync_playwright
from sqlalchemy import text
from sqlalchemy.orm import Session

from benchmarks import peer_server
from benchmarks.machine import ROOT
from benchmarks.rows import Figure, Goal, Row
from benchmarks.running import Conditions, Sample
from registry.catalogue.database.database import Database
from tests.kit import grown, servers_home
from tests.kit.servers_home import Home
from tests.kit.servers_service import ServiceProcess, create_token

REVISIONS: Final = 125_000  # of everything: 10,000 adapters of `llama`
OF_ONE: Final = 200_000  # of `grown.BIG`
VERSIONS: Final = 20_000  # of MLflow's model
ON_THE_SERVER: Final = Goal("at most", 300, "figure")
SIZE: Final = Goal("at most", 100, "figure")
FIRST_PAINT: Final = Goal("at most", 1000, "figure")
_QUIET: Final = 3.0  # seconds without a request, after which a page is taken to be complete
_PEOPLE: Final = {"Accept": "text/html"}

PAGES: Final = {
    "home": "/",
    "tree as a list": "/tree/llama",
    "tree as a drawing": "/tree/llama?view=drawing",
    "tree, filtered by a metric": "/tree/llama?metric=acc>0.98",
    "table of siblings, best of a metric first": f"/tree/llama?view=table&at={grown.WIDE}&sort=max:acc",
    "the plane": "/tree/llama?view=plane",
    "search": "/search?text=low+learning",
    "adapter of 200,000 revisions": f"/tree/{grown.BIG}",
    "its revisions": f"/history/{grown.BIG}",
    "its revisions, far down": f"/history/{grown.BIG}?before=1000",
    "its files": f"/files/{grown.BIG}",
    "adapter with 15 links": f"/tree/{grown.DEEP}",
    "compare": f"/compare?a={grown.BIG}&b={grown.BIG}@17",
    "activity": "/activity",
    "jobs": "/jobs",
    "admin": "/admin",
    "health": "/health",
}


@dataclass(frozen=True)
class Pages:
    """A running service of the large registry, and who looks."""

    service: ServiceProcess
    secret: str

    def client(self) -> httpx.Client:
        """A client that is signed in, as programs are: the cookie of a session takes one lookup more."""
        headers = {**_PEOPLE, "Authorization": f"Bearer {self.secret}"}
        return httpx.Client(base_url=self.service.url, headers=headers, timeout=600)

    def memory(self) -> int:
        """Resident bytes."""
        found = psutil.Process(self.service.process.pid)
        return sum(one.memory_info().rss for one in (found, *found.children(recursive=True)))


def rows(run: Conditions) -> Iterator[Row]:
    """Each page on the server, first paints, memory, and MLflow's page."""
    run.cache.mkdir(parents=True, exist_ok=True)
    with ExitStack() as until:
        scratch = Path(until.enter_context(tempfile.TemporaryDirectory(prefix="pages-", dir=run.cache)))
        home = Home.of_process(scratch)
        until.callback(home.leave)
        with large(home, scratch, run) as pages:
            yield from _on_the_server(pages, run.runs(5))
            yield from _memory(pages, 20 if run.quick else 200)
            with chromium() as browser:
                yield from _first_paints(pages, browser, run.runs(3))
                if run.python is not None:
                    yield _mlflow(home, scratch, browser, run)


@contextmanager
def large(home: Home, scratch: Path, run: Conditions) -> Iterator[Pages]:
    """A service over the large registry."""
    place, store = f"sqlite:///{scratch / 'registry.db'}", scratch / "store"
    count, of_one = (1_000, 2_000) if run.quick else (REVISIONS, OF_ONE)
    fill(place, count, of_one)
    grown.store(store, count)
    secret = create_token(place, "admin")
    settings = {"REGISTRY_DATABASE_URL": place, "REGISTRY_STORE_URL": str(store)}
    with closing(ServiceProcess.started(home, settings)) as service:
        yield Pages(service, secret)


def fill(place: str, count: int, of_one: int) -> None:
    """Fill a new database, in which one adapter has ``of_one`` revisions."""
    database = Database(place)
    database.prepare()
    database.change(lambda session: grown.fill(session, count))
    database.change(lambda session: lengthen(session, of_one))
    with database.write() as session:
        session.execute(text("ANALYZE"))
    database.dispose()


def lengthen(session: Session, of_one: int) -> None:
    """Give `grown.BIG` more revisions, each like its first but for number, digest, time and metric."""
    last = session.execute(
        text("SELECT a.id, max(r.number), (SELECT max(id) FROM revisions) FROM adapters a JOIN revisions r "
             "ON r.adapter_id = a.id WHERE a.path = :path GROUP BY a.id"), {"path": grown.BIG}
    ).one()  # fmt: skip
    numbers = {"adapter": last[0], "last": last[1], "key": last[2], "more": of_one - last[1]}
    for statement in _MORE:
        session.execute(text(statement), numbers)


_COUNTED: Final = (
    "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < :more), "
    "one AS (SELECT * FROM revisions WHERE adapter_id = :adapter AND number = 1) "
)
_MORE: Final = (
    "INSERT INTO revisions (id, adapter_id, number, digest, parent_id, manifest, message, author, created_at, rank, "
    "parameters, size, trained_on, notices, parent_known_by) "
    + _COUNTED
    + "SELECT :key + i, adapter_id, :last + i, printf('sha256:%064x', i), parent_id, manifest, message, author, "
    "datetime(created_at, '+' || i || ' minutes') || '.000000', rank, parameters, size, trained_on, notices, "
    "parent_known_by FROM n, one",
    "INSERT INTO revision_files (revision_id, path, digest) "
    + _COUNTED
    + "SELECT :key + i, f.path, f.digest FROM n, one JOIN revision_files f ON f.revision_id = one.id",
    "INSERT INTO metrics (revision_id, name, value) "
    + _COUNTED
    + "SELECT :key + i, 'acc', 0.5 + 0.4 * (i % 97) / 97 FROM n",
    "UPDATE adapters SET next_number = :last + :more + 1 WHERE id = :adapter",
)


def _on_the_server(pages: Pages, runs: int) -> Iterator[Row]:
    with pages.client() as client:
        for name, address in PAGES.items():
            _asked(client, address)
            samples, size = [], 0
            for _ in range(runs):
                sample, size = _asked(client, address)
                samples.append(sample)
            yield Row(f"{name}, on the server", Figure.of(samples, "seconds", scale=1000), "ms", goal=ON_THE_SERVER)
            yield Row(
                f"  HTML without drawings: {name}", Figure(size / 1000), "kB", goal=Goal("at most", 100, "figure")
            )


def _asked(client: httpx.Client, address: str) -> tuple[Sample, int]:
    began = time.perf_counter()
    answer = client.get(address)
    seconds = time.perf_counter() - began
    if answer.status_code != 200:
        raise SystemExit(f"{address} answered {answer.status_code}: {answer.text}")
    return {"seconds": seconds}, len(without_drawings(answer.text).encode())


def without_drawings(page: str) -> str:
    """The HTML of a page without its inline SVG."""
    kept, rest = "", page
    while "<svg" in rest:
        before, _, rest = rest.partition("<svg")
        kept, rest = kept + before, rest.partition("</svg>")[2]
    return kept + rest


def _memory(pages: Pages, rounds: int) -> Iterator[Row]:
    with pages.client() as client:
        for name, count in (("a round of all pages", 1), (f"{rounds} more", rounds)):
            for _ in range(count):
                for address in PAGES.values():
                    client.get(address).raise_for_status()
            yield Row(f"memory of the service after {name}", Figure(pages.memory() / 1e6), "MB")


@contextmanager
def chromium() -> Iterator[Browser]:
    """The browser that the machine has."""
    found = os.environ.get("CHROMIUM") or shutil.which("chromium")
    if found is None:
        raise SystemExit("There is no Chromium: install Debian's package chromium, or set CHROMIUM to its path.")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=found, args=["--no-sandbox"])
        try:
            yield browser
        finally:
            browser.close()


_PAINT: Final = "() => performance.getEntriesByName('first-contentful-paint').map((entry) => entry.startTime)"


def _first_paints(pages: Pages, browser: Browser, runs: int) -> Iterator[Row]:
    for name, address in PAGES.items():
        samples: list[Sample] = []
        for _ in range(runs):
            context = browser.new_context(extra_http_headers={"Authorization": f"Bearer {pages.secret}"})
            page = context.new_page()
            page.goto(pages.service.url + address, wait_until="load")
            while not (marks := page.evaluate(_PAINT)):  # the policy of the pages lets nothing wait inside of them
                page.wait_for_timeout(10)
            samples.append({"ms": marks[0], "seconds": marks[0] / 1000})
            context.close()
        yield Row(f"{name}, first paint", Figure.of(samples, "ms"), "ms", goal=FIRST_PAINT)


def _mlflow(home: Home, scratch: Path, browser: Browser, run: Conditions) -> Row:
    """MLflow's page of a model with so many versions, until it asks for nothing more."""
    versions = 200 if run.quick else VERSIONS
    place, port = f"sqlite:///{scratch / 'mlflow.db'}", servers_home.free_port()
    assert run.python is not None
    subprocess.run([run.python, "-m", "benchmarks.pages_mlflow", place, str(versions)], cwd=ROOT, check=True)
    command = [run.python, "-m", "mlflow", "server", "--backend-store-uri", place, "--host", "127.0.0.1"]
    with peer_server.running(home, [*command, "--port", str(port), "--workers", "1"], port, "health") as peer:
        samples = [_watched(browser, f"{peer.url}/#/models/long") for _ in range(run.runs(3))]
    print(json.dumps(samples[-1]), file=sys.stderr)
    return Row(
        f"MLflow's page of a model with {versions:,} versions, until it is quiet",
        Figure.of(samples, "seconds", scale=1000),
        "ms",
    )


def _watched(browser: Browser, address: str) -> Sample:
    """Seconds until the last answer of its API that a page waited for, how many there were, and their bytes.

    What it asks of other hosts is refused: there is none here, and it would wait for them.
    """
    context = browser.new_context()
    page = context.new_page()
    here = urlsplit(address).netloc
    page.route(lambda url: urlsplit(url).netloc != here, lambda route: route.abort())
    began = last = time.perf_counter()
    waiting, done = set[Any](), list[Any]()

    def ended(request: Any) -> None:
        nonlocal last
        if request in waiting:
            waiting.discard(request)
            done.append(request)
            last = time.perf_counter()

    page.on("request", lambda request: waiting.add(request) if "ajax-api" in request.url else None)
    page.on("requestfinished", ended)
    page.on("requestfailed", ended)
    page.goto(address, wait_until="load")
    while waiting or time.perf_counter() - last < _QUIET:
        page.wait_for_timeout(50)
    size = sum(request.sizes()["responseBodySize"] for request in done if request.response())
    context.close()
    return {"seconds": last - began, "requests": len(done), "bytes": size}
