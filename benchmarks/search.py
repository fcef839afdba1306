"""What searches as people type them take on a large registry: drawn ones, on both databases.

    python -m benchmarks.search [--counts 100000,1000000] [--only SQLite] [--queries 200] [--slowest 5] [--keep FOLDER]

Each catalogue is filled by `tests.kit.grown`. Queries are drawn with a fixed seed from what the catalogue says: words
of names, messages, authors, tags and metrics, one to three together and with filters, typos of names, and words that
nothing has. Each is a page of 50 in a transaction of its own, by an admin or by a token with a scope; a row says the
median, the 95th hundredth and the most CPU time of all, with that of PostgreSQL's process.
"""

from __future__ import annotations

import argparse
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

from benchmarks.growth import SCOPED, databases, server_of
from benchmarks.rows import Figure, Goal, Row
from benchmarks.running import Conditions
from registry.catalogue.database.database import Database
from registry.catalogue.tree.search import Found, found
from registry.errors import NotFoundError
from registry.rights import UNLIMITED
from registry.schemas.requests import SearchRequest
from tests.kit import grown
from tests.kit.servers_home import Home

PAGE: Final = 51
QUERIES: Final = 200
COUNTS: Final = (10_000, 100_000)
_FILTERS: Final = (
    "tag:prod", "author:ann", "acc>0.8", "acc>0.9", "eval_loss<0.5", "rank<=16", "rank=128", "behind", "proven",
    "since:30d", "target:q_proj", "target:down_proj", "base:llama", "base:tiny", f"path:{grown.WIDE}", "bleu>30",
)  # fmt: skip


def drawn(count: int, number: int, seed: int = 7) -> list[str]:
    """Searches, drawn from what is published in a catalogue of this size."""
    chance = random.Random(seed)
    seen = [one for one in grown.planned(count) if one.key % max(1, count // 5000) == 0]
    queries = [_query(chance.choice(seen), chance) for _ in range(number)]
    return [*dict.fromkeys(queries)]


def _query(one: grown.Planned, chance: random.Random) -> str:
    name = chance.choice(one.path.split("/"))
    message = one.message.replace(",", "").split()
    words = [name, chance.choice(message), chance.choice(message), one.author, *one.tags, *one.metrics, *one.notes]
    kind = chance.randrange(10)
    if kind < 3:
        return chance.choice(words)
    if kind < 6:
        return " ".join(chance.sample(words, 2 + kind % 2))
    if kind == 6:
        return f"{chance.choice(words)} {chance.choice(_FILTERS)}"
    if kind == 7:
        return " ".join(chance.sample(_FILTERS, 2))
    if kind == 8:
        place = chance.randrange(max(1, len(name) - 1))
        return name[:place] + chance.choice(("", "x")) + name[place + 1 :]
    others = (f"{one.path}@{one.number}", f"{name}@prod", "nowhere tobefound", "fr", f"{name} {one.author} qz")
    return chance.choice(others)


def measured(database: Database, queries: Sequence[str]) -> Iterator[tuple[float, str]]:
    """Milliseconds of CPU of each, and what it is."""
    for place, query in enumerate(queries):
        rights = SCOPED if place % 4 == 3 else UNLIMITED
        with database.read(rights) as session:
            server = server_of(session)
            used = time.process_time() + sum(server.cpu_times()[:2] if server else ())
            try:
                shown = found(session, SearchRequest(text=query), limit=PAGE)
            except NotFoundError:  # a base model or path out of the scope
                shown = Found(())
            used = time.process_time() + sum(server.cpu_times()[:2] if server else ()) - used
        yield used * 1000, f"{'scoped: ' if rights is SCOPED else ''}{query}: {len(shown.revisions)}, {shown.notices}"


def rows(run: Conditions) -> Iterator[Row]:
    """Of catalogues of 10,000 and 100,000 revisions."""
    yield from _rows((1000,) if run.quick else COUNTS, ("SQLite", "PostgreSQL"), 20 if run.quick else QUERIES, 0)


def _rows(
    counts: Sequence[int], kinds: Sequence[str], number: int, slowest: int, kept: Path | None = None
) -> Iterator[Row]:
    with tempfile.TemporaryDirectory(prefix="search-") as scratch:
        home = Home.of_process(Path(scratch))
        for kind, count, url in databases(counts, kinds, kept or Path(scratch), home):
            database = Database(url)
            queries = drawn(count, number)
            list(measured(database, queries[:5]))  # connections and statements are made once
            took = sorted(measured(database, queries))
            database.dispose()
            for milliseconds, query in took[::-1][:slowest]:
                sys.stderr.write(f"  {milliseconds:8.1f} ms  {query}\n")
            figures = [milliseconds for milliseconds, _ in took]
            p95 = figures[int(0.95 * (len(figures) - 1))]
            of = f"{kind}, {count:,}: CPU of {len(figures)} drawn searches"
            yield Row(f"{of}, median", Figure(statistics.median(figures)), "ms")
            yield Row(f"{of}, 95th hundredth", Figure(p95), "ms", goal=Goal("at most", 100.0, "figure"))
            yield Row(f"{of}, most", Figure(figures[-1]), "ms", goal=Goal("at most", 1000.0, "figure"))


def main() -> None:
    """Print the rows of the sizes that were asked for, each when it is known."""
    parser = argparse.ArgumentParser(prog="benchmarks.search")
    parser.add_argument("--counts", default=",".join(map(str, COUNTS)))
    parser.add_argument("--only", choices=("SQLite", "PostgreSQL"))
    parser.add_argument("--queries", type=int, default=QUERIES)
    parser.add_argument("--slowest", type=int, default=0, help="how many of the slowest are shown")
    parser.add_argument("--keep", type=Path, help="where catalogues of SQLite stay")
    given = parser.parse_args()
    kinds = (given.only,) if given.only else ("SQLite", "PostgreSQL")
    counts = [int(count) for count in given.counts.split(",")]
    for row in _rows(counts, kinds, given.queries, given.slowest, given.keep):
        print(f"{row.figure.value:10.1f} {row.unit}  {row.name}", flush=True)


if __name__ == "__main__":
    main()
