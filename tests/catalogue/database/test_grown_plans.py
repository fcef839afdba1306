"""Plans of the hot queries where there are 100,000 revisions: none reads a large table from end to end."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final

import psycopg
import pytest
from sqlalchemy import text
from sqlalchemy.orm import Session

from registry.catalogue.changes import publish as publishing
from registry.catalogue.changes import retention
from registry.catalogue.database import events
from registry.catalogue.database.database import Database, sqlite_url
from registry.catalogue.database.events import EventFilter, EventPosition
from registry.catalogue.store import unreferenced
from registry.catalogue.tree import browse, cards, nodes, repo_rows, revisions
from registry.catalogue.tree.browse import deleted
from registry.catalogue.tree.nodes import Section
from registry.catalogue.tree.search import search
from registry.catalogue.tree.search_query import SearchPosition
from registry.catalogue.tree.tag_moves import subtree
from registry.digest import sha256_digest
from registry.reference import Path as TreePath
from registry.reference import Reference
from registry.rights import UNLIMITED, Rights
from registry.schemas.requests import SearchRequest
from tests.catalogue.database.test_query_plans import SENT, read_whole
from tests.catalogue.rows import rights
from tests.kit import grown
from tests.kit.statements import statements

COUNT: Final = 100_000
PAGE: Final = 101
LARGE: Final = (
    "revisions", "revision_files", "revision_targets", "metrics", "statistic_values", "annotations", "events", "blobs",
)  # fmt: skip
pytestmark = pytest.mark.usefixtures("whole_batches")

LATER: Final = EventPosition(grown.BEGAN + timedelta(seconds=47 * 5000), 1)
SCOPED: Final = rights("admin", grown.WIDE)
BIG: Final = TreePath.parse(grown.BIG)


def searching(words: str | None = None, **conditions: Any) -> Callable[[Session], Any]:
    return lambda session: search(session, SearchRequest(text=words, **conditions), limit=PAGE)


HOT: Final[dict[str, Callable[[Session], Any]]] = {
    "find": lambda session: revisions.find(session, Reference.parse(f"{grown.WIDE}@prod")),
    "log": lambda session: browse.log(session, TreePath.parse(grown.WIDE), limit=PAGE),
    "lineage": lambda session: browse.lineage_entries(
        session, revisions.find(session, Reference.parse(f"{grown.WIDE}@1")).id
    ),
    "Hub list": lambda session: repo_rows.adapters_listed(session, after="", limit=PAGE),
    "Hub list, later": lambda session: repo_rows.adapters_listed(session, after="llama/t", limit=PAGE),
    "tree": lambda session: nodes.tree(session, Section(limit=100)),
    "tree, later": lambda session: nodes.tree(session, Section(after=TreePath.parse(grown.WIDE), limit=100)),
    "events": lambda session: events.page(session, 100),
    "everything": searching(),
    "everything, later": searching(after=SearchPosition(TreePath.parse(grown.WIDE))),
    "rare tag": searching(tag="golden"),
    "rare rank": searching(rank="128"),
    "common rank": searching(rank="<=16"),
    "rare metric": searching(metric="bleu>30"),
    "common metric": searching(metric="acc>0.9"),
    "rare statistic": searching(stat="stable_rank=1"),
    "common statistics": searching(stat="rank95<8,stable_rank>3"),
    "smallest statistic": searching(sort="min:stat:rank95", stat="stable_rank>3"),
    "rare target": searching(target="down_proj"),
    "common target": searching(target="q_proj"),
    "best": searching(sort="max:acc"),
    "best of a rare one": searching(sort="min:bleu"),
    "siblings": searching(path=grown.WIDE, depth=1),
    "best sibling": searching(path=grown.WIDE, depth=1, sort="max:acc"),
    "all revisions": searching(all_revisions=True, metric="acc>0.9"),
    "text of every one": searching("epochs"),
    "text of few": searching("after the Gr"),
    "text of none": searching("nowhere to be found"),
    "several": searching("french", tag="prod", rank="<=16", metric="acc>0.8"),
}
UNSCOPED: Final[dict[str, Callable[[Session], Any]]] = {
    "events of a path": lambda session: events.page(session, 100, None, EventFilter(TreePath.parse(grown.WIDE))),
    "events of a kind": lambda session: events.page(session, 100, LATER, EventFilter(kind="tag")),
    "revisions of one": searching(path=grown.BIG, depth=0, all_revisions=True),
    "subtree": lambda session: subtree(session, BIG, limit=500),
    "subtree, later": lambda session: subtree(session, BIG, after=Reference.parse(f"{grown.BIG}@999"), limit=500),
    "deleted": lambda session: deleted(session, BIG, datetime.now(UTC), timedelta(days=1), limit=PAGE),
    "refs": lambda session: repo_rows.served(session, BIG, "published", limit=100),
    "card": lambda session: cards.state(session, revisions.find(session, Reference.parse(grown.BIG)).adapter_id),
    "retention rule": lambda session: retention.find(session, BIG),
    "what a rule is asked about": lambda session: retention.asked_about(
        session, BIG, revisions.find(session, Reference.parse(grown.BIG)).adapter_id, {"acc"}
    ),
    "keys": lambda session: unreferenced.keys(session, after="blobs/sha256/80"),
    "taken down": lambda session: unreferenced.takes_down(session, sha256_digest(b"weights 1")),
}


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def large(request: pytest.FixtureRequest) -> Any:
    if request.param == "sqlite":
        folder = request.getfixturevalue("tmp_path_factory").mktemp("grown")
        made = Database(f"sqlite:///{folder / 'grown.sqlite'}")
        made.prepare()
        fill(made)
        yield made
        made.dispose()
        return
    with request.getfixturevalue("shared_servers").postgres(migrated=True) as url:
        made = Database(url)
        fill(made)
        yield made
        made.dispose()


def fill(database: Database) -> None:
    with database.write() as session:
        grown.fill(session, COUNT)
    if database._engine.dialect.name == "sqlite":
        with database.write() as session:
            session.execute(text("ANALYZE"))
        return
    # With VACUUM, as autovacuum does it: what was just filled into a GIN index waits in a list until then.
    url = database._engine.url.set(drivername="postgresql").render_as_string(hide_password=False)
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("VACUUM ANALYZE")


@pytest.mark.long
@pytest.mark.slow
@pytest.mark.parametrize("seen", [UNLIMITED, SCOPED], ids=["unlimited", "scoped"])
def test_no_hot_query_reads_a_large_table(large: Database, seen: Rights) -> None:
    problems = []
    for name, query in (HOT if seen is SCOPED else HOT | UNSCOPED).items():
        with large.read(seen) as session:
            with statements(*SENT) as sent:
                query(session)
            looked_at = list(sent)
        with large.read() as session:
            for statement, parameters in looked_at:
                if statement.startswith("SELECT (SELECT count(*)"):  # of so many at most, by whatever gives them first
                    continue
                whole = read_whole(session, statement, parameters, in_order=True)
                found = [table for table in whole if table.split()[0].rstrip("_0123456789") in LARGE]
                problems += [(name, found, statement)] if found else []
    assert not problems, "\n\n".join(map(str, problems))


FLAT: Final[dict[str, Callable[[Session], Any]]] = {
    "children": lambda session: nodes.of_revision(session, 17),
    "children of one above": lambda session: nodes.tree(session, Section(BIG)),
    "tree": lambda session: nodes.tree(session, Section(limit=100)),
    "old names": lambda session: session.execute(
        publishing._around(on_parent=False),
        {"base": "llama", "path": grown.WIDE, "above": None, "parent_id": None, "digest": "sha256:0"},
    ),
}


def test_the_few_that_have_a_parent_or_another_name_are_found_where_most_have_none(tmp_path: Path) -> None:
    """SQLite goes by the mean number of rows of a value; those without one count, where an index has them."""
    database = Database(sqlite_url(tmp_path / "flat.sqlite"))
    database.prepare()
    with database.write() as session:
        grown.fill(session, 2000)
        for table in ("revisions", "adapters"):
            session.execute(text(f"UPDATE {table} SET parent_id = NULL"))
    with database.write() as session:
        session.execute(text("ANALYZE"))
    problems = []
    for name, query in FLAT.items():
        with database.read() as session:
            with statements(*SENT) as sent:
                query(session)
            for statement, parameters in list(sent):
                whole = read_whole(session, statement, parameters, in_order=True)
                problems += [(name, whole, statement)] if {"revisions", "adapters"} & clean(whole) else []
    database.dispose()
    assert not problems, "\n\n".join(map(str, problems))


def clean(tables: list[str]) -> set[str]:
    return {table.rstrip("_0123456789") for table in tables}
