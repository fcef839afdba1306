"""Hot queries have their index, on both databases: the plans say that no whole table is read."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import Any, Final

import pytest
from sqlalchemy import text
from sqlalchemy.orm import Session

from registry.catalogue.changes import deletion, details, publish, retraction, tagging, undeletion
from registry.catalogue.database import events
from registry.catalogue.database.database import Database
from registry.catalogue.database.events import EventFilter
from registry.catalogue.database.team_tables import metadata
from registry.catalogue.store import blobs, materialisations, purge, unreferenced, uploads
from registry.catalogue.team import jobs, sessions, tokens
from registry.catalogue.team.jobs import JobPosition
from registry.catalogue.tree import bases, browse, links, nodes, repo_rows, revisions, tag_moves
from registry.catalogue.tree.cards import uses
from registry.catalogue.tree.nodes import Section
from registry.catalogue.tree.tag_moves import subtree
from registry.reference import Path as TreePath
from registry.reference import Reference
from registry.rights import UNLIMITED, Principal, Rights
from registry.schemas.jobs import JobsRequest
from registry.schemas.usage import Counted, UseKey
from tests.catalogue.rows import BOB, TESTER, Writer, digest_of, rights
from tests.kit.statements import statements

pytestmark = pytest.mark.usefixtures("whole_batches")

SENT: Final = ("SELECT", "WITH", "UPDATE", "DELETE")
BOB_OF_A_PART: Final = Principal("bob", rights("writer", "llama"), token="tok_bob")
SCOPED: Final = rights("admin", "llama/wide-7", "llama/wide-8/child")


@pytest.fixture
def grown(filled: Database, writer: Writer) -> Database:
    with filled.write() as session:
        for first in range(20):
            row = writer.publish(session, f"llama/wide-{first}", f"wide {first}")
            writer.publish(
                session, f"llama/wide-{first}/child", f"child {first}", row, metrics={"acc": 0.5}, tag="prod"
            )
        for count in range(9):
            tokens.create(session, TESTER, "reader", name=f"reader {count}")
            jobs.create(session, "gc", f"request {count}", TESTER)
            uploads.create(session, digest_of(f"up {count}"), 9, BOB, part_size=9, staging_key=f"staging/{count}")
    return filled


def events_later(session: Session, conditions: EventFilter) -> None:
    events.page(session, 3, events.page(session, 1, None, conditions).next, conditions)


def find(session: Session) -> None:
    row = revisions.find(session, Reference.parse("llama/wide-7/child"))
    for selector in ("1", "prod", row.digest, row.digest[:20]):
        assert revisions.find(session, Reference.parse(f"{row.path}@{selector}")).id == row.id


def child(session: Session) -> int:
    return revisions.find(session, Reference.parse("llama/wide-7/child")).id


def authenticate(session: Session) -> None:
    made = tokens.create(session, TESTER, "reader")
    assert tokens.authenticate(session, made.secret).token == made.token.id
    tokens.touch(session, made.token.id, datetime.now(UTC))


def sign_in(session: Session) -> None:
    made = tokens.create(session, TESTER, "reader")
    sessions.open_session(session, made.token.id)
    sessions.close_session(session, made.secret)


def show(session: Session) -> None:
    key = child(session)
    revisions.lineage(session, key)
    revisions.files(session, key)
    revisions.pinnable(session, TreePath.parse("llama/wide-7/child"))
    browse.targets(session, key)
    browse.lineage_entries(session, key)
    browse.summary(session, key)
    browse.labels(session, key)
    links.links(session, Reference.parse("llama/wide-7/child"))
    bases.summary(session, "llama")
    repo_rows.repo(session, TreePath.parse("llama/wide-7/child"))
    nodes.of_revision(session, key)
    nodes.of_base(session, "llama")
    tag_moves.histories(session, revisions.get(session, key), ["prod"])
    materialisations.listing(session, revision_id=key)
    uses(session, [key])


def transfer(session: Session) -> None:
    made = uploads.create(session, digest_of("mine"), 9, TESTER, part_size=9, staging_key="staging/mine")
    assert uploads.find(session, digest_of("mine"), 9, TESTER) == made
    uploads.get(session, made.id, TESTER)
    uploads.extend(session, made.id)
    uploads.expired(session, datetime.now(UTC))
    uploads.remove(session, made.id)


def operate(session: Session) -> None:
    claimed = jobs.claim(session, "me", ("publish", "gc"))
    assert claimed is not None
    jobs.renew(session, claimed.id, "me", stage="s", done=1, total=2)
    jobs.finish(session, claimed.id, "me", "{}")
    jobs.create(session, "gc", "other", TESTER)
    jobs.get(session, claimed.id, TESTER)


def list_jobs(session: Session, principal: Principal) -> None:
    last = JobPosition(datetime.now(UTC), "x")
    jobs.counts(session, datetime.now(UTC))
    for request in (JobsRequest(), JobsRequest(state="failed"), JobsRequest(kind="notice"), JobsRequest(kind="gc")):
        for after in (None, last):
            jobs.listing(session, principal, request, after=after, limit=3)


def collect(session: Session) -> None:
    found = unreferenced.unneeded(session, datetime.now(UTC), end=unreferenced.end_of(session, "", 10))
    unreferenced.forget(session, [row.digest for row in found] or [digest_of("s1")], datetime.now(UTC))
    unreferenced.keys(session, limit=3)
    purge.named(session, ["blobs/x"])
    unreferenced.takes_down(session, digest_of("wide 7"))


def live_and_let_die(session: Session) -> None:
    key, ref = child(session), Reference.parse("llama/wide-7/child@1")
    long_ago = datetime(2000, 1, 1, tzinfo=UTC)
    deletion.delete(session, key, TESTER, with_tags=True)
    undeletion.undo(session, ref, long_ago, TESTER)
    deletion.delete_tree(session, TreePath.parse("llama/wide-7"), TESTER, with_tags=True)
    undeletion.undo_tree(session, TreePath.parse("llama/wide-7"), long_ago, TESTER)
    deletion.delete(session, key, TESTER, with_tags=True)
    purge.purge(session, purge.expired(session, datetime.now(UTC), 9), purge.GRACE_OVER, TESTER)


def count_uses(session: Session) -> None:
    now = datetime.now(UTC)
    details.count_uses(session, {UseKey("llama/wide-7", 1, now.date(), "fetch", "tok_a"): Counted(1, now)})
    details.forget_uses(session, now)


def use_blobs(session: Session) -> None:
    blobs.visible(session, [digest_of("wide 7"), digest_of("child 7")])
    blobs.use(session, [digest_of("wide 7")])


HOT: Final[dict[str, Callable[[Session], Any]]] = {
    "find": find,
    "show": show,
    "log": lambda session: browse.log(session, TreePath.parse("llama/wide-7"), before=9, limit=2),
    "subtree": lambda session: subtree(session, TreePath.parse("llama/wide-7")),
    "part of the tree": lambda session: nodes.tree(session, Section(TreePath.parse("llama/wide-7"))),
    "tag": lambda session: tagging.set_tag(session, child(session), "next", TESTER),
    "use blobs": use_blobs,
}
UNSCOPED: Final[dict[str, Callable[[Session], Any]]] = {
    "publish": lambda session: publish.publish(session, Writer().new("llama/wide-7", "wide 8", None), TESTER),
    "delete": lambda session: deletion.delete(session, child(session), TESTER, with_tags=True),
    "delete, undo, end": live_and_let_die,
    "events of a path": lambda session: events.page(session, 3, None, EventFilter(TreePath.parse("llama/wide-7"))),
    "events of an actor": lambda session: events.page(session, 3, None, EventFilter(actor="bob")),
    "events of a kind": lambda session: events_later(session, EventFilter(kind="tag")),
    "LIMIT events since": lambda session: events.page(session, 3, None, EventFilter(after=datetime.now(UTC))),
    "all of them": lambda session: events.page(
        session, 3, None, EventFilter(TreePath.parse("llama/wide-7"), datetime.now(UTC), "bob", "tag")
    ),
    "undo of a tag": lambda session: tagging.undo(session, TreePath.parse("llama/wide-7/child"), "prod", TESTER),
    "retract": lambda session: retraction.retract(session, 1, "bad", TESTER),
    "count uses": count_uses,
    "authenticate": authenticate,
    "sign in": sign_in,
    "transfer": transfer,
    "operate": operate,
    "collect": collect,
    # In the order of an index, and no further than the page goes.
    "LIMIT events": lambda session: events.page(session, 3),
    "LIMIT any": tokens.any_exist,
    "LIMIT tokens": lambda session: tokens.listing(session, limit=3),
    "LIMIT jobs": lambda session: list_jobs(session, TESTER),
    "jobs of a token": lambda session: list_jobs(session, BOB_OF_A_PART),
}


SMALL = {"uploads"}
"""Tables that may be read from end to end: no more rows than uploads under way."""


def prefer_indexes(session: Session) -> None:
    """For the plans of a transaction: tables of a test are small, and PostgreSQL does best to read them whole."""
    if session.get_bind().dialect.name == "postgresql":
        for method in ("seqscan", "hashjoin", "mergejoin"):
            session.execute(text(f"SET LOCAL enable_{method} = off"))


def read_whole(session: Session, statement: str, parameters: Any, *, in_order: bool) -> list[str]:
    """The tables that the plan of a statement reads from end to end; with ``in_order``, by an index is no matter."""
    if session.get_bind().dialect.name == "sqlite":
        plan = session.connection().exec_driver_sql(f"EXPLAIN QUERY PLAN {statement}", parameters)
        steps = [str(row[3]) for row in plan]
        scans = [step.split()[1] for step in steps if step.startswith("SCAN")]
        ordered = in_order and not any("TEMP B-TREE" in step for step in steps)
        return (
            []
            if ordered
            else [name for name in scans if name.rstrip("_0123456789") in metadata().tables.keys() - SMALL]
        )
    plan = session.connection().exec_driver_sql(f"EXPLAIN (FORMAT JSON) {statement}", parameters).scalar_one()
    return list(scanned(plan[0]["Plan"], in_order))


def scanned(node: dict[str, Any], in_order: bool) -> Iterator[str]:
    below = node.get("Plans", [])
    if "Relation Name" in node and node["Relation Name"] not in SMALL and node["Node Type"] != "ModifyTable":
        by_index = "Index Cond" in node or any("Index Cond" in one for one in leaves(node))
        ordered = in_order and node["Node Type"] in {"Index Scan", "Index Only Scan"}
        if not by_index and not ordered:
            yield f"{node['Relation Name']} by {node['Node Type']}"
    for one in below:
        yield from scanned(one, in_order)


def leaves(node: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The index scans of a bitmap scan."""
    for below in node.get("Plans", []):
        if below["Node Type"].startswith("Bitmap"):
            yield below
            yield from leaves(below)


@pytest.mark.parametrize("seen", [UNLIMITED, SCOPED], ids=["unlimited", "scoped"])
def test_hot_queries_use_indexes(grown: Database, seen: Rights) -> None:
    queries = HOT if seen is SCOPED else HOT | UNSCOPED
    problems = []
    for name, query in queries.items():
        with grown.write(seen) as session:
            with statements(*SENT) as sent:
                query(session)
            looked_at = list(sent)
            session.rollback()
        assert looked_at, name
        with grown.read() as session:
            prefer_indexes(session)
            for statement, parameters in looked_at:
                found = read_whole(session, statement, parameters, in_order=name.startswith("LIMIT"))
                problems += [(name, found, statement)] if found else []
    assert not problems, "\n".join(map(str, problems))
