"""What lists, lookups, pages, searches and the steps of gc and fsck take as a registry grows, on both databases.

    python -m benchmarks.growth [--counts 10000,100000,1000000] [--only SQLite] [--runs 5] [--keep FOLDER]

prints the rows of other sizes than those of the table of all benchmarks. Each catalogue is filled by `tests.kit.grown`,
in bulk with what publishing would have written; --keep leaves those of SQLite in a folder, for other runs. Every step
is one transaction in this process; a row says its median time, and its CPU time, that of PostgreSQL's process with it.
The last row of a catalogue is the memory of a service that answered some of everything.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final

import psutil
import psycopg
from sqlalchemy import text
from sqlalchemy.orm import Session

from benchmarks import growth_service
from benchmarks.rows import Figure, Goal, Row
from benchmarks.running import Conditions
from registry.catalogue.database import events
from registry.catalogue.database.database import Database, sqlite_url
from registry.catalogue.database.events import EventFilter
from registry.catalogue.database.prepared import reading
from registry.catalogue.store import materialisations, purge, unreferenced, uploads
from registry.catalogue.store.usage import usage
from registry.catalogue.tree import bases, browse, nodes, repo_rows, resolution, revisions
from registry.catalogue.tree.browse import deleted
from registry.catalogue.tree.nodes import Section
from registry.catalogue.tree.search import search
from registry.catalogue.tree.tag_moves import subtree
from registry.digest import sha256_digest
from registry.reference import Path as TreePath
from registry.reference import Reference
from registry.rights import UNLIMITED, Rights
from registry.schemas.requests import SearchRequest
from registry.services import browse as showing
from registry.services import hub_repos
from tests.kit import grown
from tests.kit.servers import DURABLE, Postgres
from tests.kit.servers_home import Home

PAGE: Final = 101  # items of a page, and the one that says that there is another
COUNTS: Final = (10_000, 100_000)
BOUNDED: Final = 100_000  # revisions, from where on a page of a search has its goal
LATER: Final = datetime(2100, 1, 1, tzinfo=UTC)
SCOPED: Final = Rights("reader", (TreePath.parse(grown.WIDE),))
READER: Final = Rights("reader", ())

Step = Callable[[Session], Any]


def _find(reference: str) -> Step:
    return lambda session: revisions.find(session, Reference.parse(reference))


def _search(words: str | None = None, **conditions: Any) -> Step:
    return lambda session: search(session, SearchRequest(text=words, **conditions), limit=PAGE)


def _refs(session: Session) -> None:
    hub_repos.refs(session, hub_repos.find_repo(session, "published", TreePath.parse(grown.BIG).repo_id))


def _stretch(look: Callable[..., Any]) -> Step:
    after = "sha256:80"
    return lambda session: look(session, LATER, after=after, end=unreferenced.end_of(session, after, 10_000))


STEPS: Final[Mapping[str, Step]] = {
    "find, newest": _find(grown.WIDE),
    "find, of the largest adapter, by number": _find(f"{grown.BIG}@17"),
    "find, of the largest adapter, by tag": _find(f"{grown.BIG}@prod"),
    "resolve, sixteen links": lambda session: resolution.resolve(reading(session), Reference.parse(grown.DEEP)),
    "show, sixteen links": lambda session: showing.shown(session, Reference.parse(grown.DEEP)),
    "show, the largest adapter": lambda session: showing.shown(session, Reference.parse(grown.BIG)),
    "base models": lambda session: bases.summaries(session, limit=PAGE),
    "log of the largest adapter, first page": lambda session: browse.log(
        session, TreePath.parse(grown.BIG), limit=PAGE
    ),
    "list of the Hub, first page": lambda session: repo_rows.adapters_listed(session, after="", limit=PAGE),
    "list of the Hub, later page": lambda session: repo_rows.adapters_listed(session, after="llama/t", limit=PAGE),
    "search, everything": _search(),
    "search, text in the path of one adapter": _search("deep/l1/l2/l3"),
    "search, text in 1 of 1000 messages": _search("GRÖSSENÄNDERUNG".replace("SS", "ß")),
    "search, text of one message": _search("run 00001234"),
    "search, text in 1 of 50 messages": _search("low learning"),
    "search, text in every message": _search("epochs"),
    "search, text of an annotation in 1 of 200": _search("OPS-12"),
    "search, text in nothing": _search("nowhere to be found"),
    "search, text of two letters": _search("qz"),
    "search, rare tag": _search(tag="golden"),
    "search, common tag": _search(tag="prod"),
    "search, rare rank": _search(rank="128"),
    "search, common rank": _search(rank="<=16"),
    "search, rare metric": _search(metric="bleu>30"),
    "search, common metric": _search(metric="acc>0.9"),
    "search, rare statistic": _search(stat="stable_rank=1"),
    "search, two common statistics": _search(stat="rank95<8,stable_rank>3"),
    "search, smallest of a statistic": _search(sort="min:stat:rank95", stat="stable_rank>3"),
    "search, few of a common metric": _search(metric="acc>0.9895"),
    "search, rare target": _search(target="down_proj"),
    "search, common target": _search(target="q_proj"),
    "search, base": _search(base="tiny"),
    "search, best of a metric": _search(sort="max:acc"),
    "search, best of a metric with a condition": _search("epochs", sort="min:eval_loss", rank="<=16"),
    "search, best of a rare metric": _search(sort="max:bleu"),
    "search, all revisions": _search(all_revisions=True),
    "search, all revisions, common metric": _search(all_revisions=True, metric="acc>0.9"),
    "search, all revisions, best of a metric": _search(all_revisions=True, sort="max:acc"),
    "search, several conditions": _search("french", base="llama", tag="prod", rank="<=16", metric="acc>0.8"),
    "events, first page": lambda session: events.page(session, 100),
    "events, of the largest adapter": lambda session: events.page(
        session, 100, None, EventFilter(TreePath.parse(grown.BIG))
    ),
    "events, of a kind and an actor": lambda session: events.page(
        session, 100, None, EventFilter(kind="tag", actor="ci")
    ),
    "gc, what nothing needs of 10,000 blobs": _stretch(unreferenced.unneeded),
    "gc, what is in its grace period of 10,000 blobs": _stretch(unreferenced.count_in_grace),
    "fsck, page of keys": lambda session: unreferenced.keys(session, after="blobs/sha256/80"),
    "fsck, totals": unreferenced.totals,
    "fsck, what depends on a blob": lambda session: unreferenced.takes_down(session, sha256_digest(b"weights 1")),
    "Hub, refs of the largest adapter": _refs,
    "du": lambda session: usage(session, None),
    "tree, part of it": lambda session: nodes.tree(session, Section(TreePath.parse("llama/deep"))),
    "tree, first page": lambda session: nodes.tree(session, Section(limit=100)),
    "tree, later page": lambda session: nodes.tree(session, Section(after=TreePath.parse(grown.WIDE), limit=100)),
    "tree, first page of the first level": lambda session: nodes.tree(session, Section(depth=1, limit=100)),
    "subtree of the largest adapter, first page": lambda session: subtree(
        session, TreePath.parse(grown.BIG), limit=1000
    ),
    "subtree of a base model, later page": lambda session: subtree(
        session, TreePath("llama"), after=Reference.parse(f"{grown.BIG}@999"), limit=1000
    ),
    "subtree, all of a small one": lambda session: subtree(session, TreePath.parse("llama/deep"), limit=1000),
    "deleted numbers of the largest adapter": lambda session: deleted(
        session, TreePath.parse(grown.BIG), LATER, timedelta(days=1), limit=PAGE
    ),
    "gc, deletions past their grace": lambda session: purge.expired(session, LATER, 100),
    "gc, materialisations past their time": lambda session: materialisations.expired(session, LATER, limit=100),
    "gc, uploads past their time": lambda session: uploads.expired(session, LATER, limit=100),
}
SCOPED_STEPS: Final[Mapping[str, Step]] = {
    "scoped: search, everything": _search(),
    "scoped: search, common metric": _search(metric="acc>0.9"),
    "scoped: search, text": _search("french"),
    "scoped: events, first page": lambda session: events.page(session, 100),
    "scoped: tree, first page": lambda session: nodes.tree(session, Section(limit=100)),
    "scoped: du": lambda session: usage(session, None),
    "scoped: list of the Hub, first page": lambda session: repo_rows.adapters_listed(session, after="", limit=PAGE),
}


@dataclass(frozen=True)
class Timed:
    """Medians of a step, in milliseconds."""

    wall: float
    cpu: float


def timed(database: Database, step: Step, rights: Rights, runs: int) -> Timed:
    """The median of some runs, after one that is not counted."""
    walls: list[float] = []
    processors: list[float] = []
    while len(walls) <= runs and sum(walls) < 5000:
        with database.read(rights) as session:
            server = server_of(session)
            began, used = time.perf_counter(), time.process_time() + sum(server.cpu_times()[:2] if server else ())
            step(session)
            took = time.perf_counter() - began
            processor = time.process_time() + sum(server.cpu_times()[:2] if server else ()) - used
        walls.append(took * 1000)
        processors.append(processor * 1000)
    return Timed(statistics.median(walls[1:] or walls), statistics.median(processors[1:] or processors))


def server_of(session: Session) -> psutil.Process | None:
    """The process of PostgreSQL that works for a session, on this machine; in ticks of 10 ms."""
    if session.get_bind().dialect.name != "postgresql":
        return None
    return psutil.Process(session.scalar(text("SELECT pg_backend_pid()")))


def measure(database: Database, runs: int, part: str) -> Iterator[tuple[str, Timed]]:
    """All steps on one catalogue, or those with ``part`` in their names."""
    steps = [(name, step, UNLIMITED) for name, step in STEPS.items()]
    steps += [(name, step, SCOPED) for name, step in SCOPED_STEPS.items()]
    steps.append(("reader: events, first page", STEPS["events, first page"], READER))
    for name, step, rights in steps:
        if part in name:
            yield name, timed(database, step, rights, runs)


def fill(url: str, count: int) -> None:
    """Make a catalogue of this size, whose tables are analysed."""
    database = Database(url)
    database.prepare()
    began = time.perf_counter()
    with database.write() as session:
        grown.fill(session, count)
    _analyse(database, url)
    sys.stderr.write(f"  {count} revisions in {database.where}: {time.perf_counter() - began:.0f} s\n")
    database.dispose()


def _analyse(database: Database, url: str) -> None:
    """What autovacuum does on PostgreSQL: what was just filled into an index of texts waits in a list until then."""
    if url.startswith("postgresql"):
        with psycopg.connect(url.replace("+psycopg", ""), autocommit=True) as connection:
            connection.execute("VACUUM ANALYZE")
    else:
        with database.write() as session:
            session.execute(text("ANALYZE"))


def rows(run: Conditions) -> Iterator[Row]:
    """All steps on catalogues of 10,000 and 100,000 revisions."""
    yield from _rows((1000,) if run.quick else COUNTS, ("SQLite", "PostgreSQL"), run.runs(5), "")


def _rows(counts: Sequence[int], kinds: Sequence[str], runs: int, part: str, kept: Path | None = None) -> Iterator[Row]:
    with tempfile.TemporaryDirectory(prefix="growth-") as scratch:
        home = Home.of_process(Path(scratch))
        for kind, count, url in databases(counts, kinds, kept or Path(scratch), home):
            database = Database(url)
            for name, took in measure(database, runs, part):
                figure = Figure(took.wall, took.cpu / 1000, runs=runs)
                goal = Goal("at most", 50.0, "figure") if name.startswith("search, ") and count >= BOUNDED else None
                yield Row(f"{kind}, {count:,}: {name}", figure, "ms", goal=goal)
            database.dispose()
            memory = growth_service.memory(home, url, Path(scratch) / "store", runs)
            yield Row(f"{kind}, {count:,}: memory of a service", Figure(memory / 1e6), "MB")


def databases(counts: Sequence[int], kinds: Sequence[str], folder: Path, home: Home) -> Iterator[tuple[str, int, str]]:
    """Filled catalogues of each kind and size, with their URLs; what is in the folder already is used."""
    if "SQLite" in kinds:
        for count in counts:
            place = folder / f"{count}.sqlite"
            if not place.exists():
                fill(sqlite_url(place), count)
            yield "SQLite", count, sqlite_url(place)
    if "PostgreSQL" in kinds:
        postgres = Postgres.started(home, DURABLE)
        for count in counts:
            url = postgres.database()
            fill(url, count)
            yield "PostgreSQL", count, url


def main() -> None:
    """Print the rows of the sizes that were asked for, each when it is known."""
    parser = argparse.ArgumentParser(prog="benchmarks.growth")
    parser.add_argument("--counts", default=",".join(map(str, COUNTS)))
    parser.add_argument("--only", choices=("SQLite", "PostgreSQL"))
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--steps", default="", help="only those whose name has this in it")
    parser.add_argument("--keep", type=Path, help="where catalogues of SQLite stay")
    given = parser.parse_args()
    kinds = (given.only,) if given.only else ("SQLite", "PostgreSQL")
    for row in _rows([int(count) for count in given.counts.split(",")], kinds, given.runs, given.steps, given.keep):
        cpu = "" if row.figure.cpu is None else f"{row.figure.cpu * 1000:10.1f} ms CPU"
        print(f"{row.figure.value:10.1f} {row.unit}{cpu}  {row.name}", flush=True)


if __name__ == "__main__":
    main()
