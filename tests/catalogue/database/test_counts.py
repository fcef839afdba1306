"""What triggers count is what there is: after every change, of programs that know nothing of them too."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime

from sqlalchemy import func, select, text
from sqlalchemy.orm import Session

from registry.catalogue.changes import deletion, new_base, rename, undeletion
from registry.catalogue.database.database import Database
from registry.catalogue.database.tables import Adapter, BaseModelRecord, CommitRecord, Revision
from registry.catalogue.database.visibility import INCLUDE_DELETED
from registry.catalogue.store import purge
from registry.catalogue.tree import bases, nodes, revisions
from registry.catalogue.tree.nodes import Section
from registry.reference import Path, Reference
from registry.schemas import Tree
from tests.catalogue.rows import TESTER, Writer, rights

EPOCH = datetime(2000, 1, 1, tzinfo=UTC)
OLD_PROGRAM = (
    "INSERT INTO revisions (id, adapter_id, number, digest, manifest, message, author, created_at, rank, parameters, "
    "size, notices) SELECT id + 1000, adapter_id, number + 1000, digest || 'x', manifest, message, author, created_at, "
    "rank, parameters, size, notices FROM revisions"
)


def counted(session: Session) -> tuple[dict[str, int], dict[str, int]]:
    """Live revisions by adapter, and adapters with some by base model: as the columns say."""
    adapters = session.execute(select(Adapter.path, Adapter.live_revisions)).all()
    found = select(BaseModelRecord.name, BaseModelRecord.live_adapters)
    return dict(adapters), dict(session.execute(found, execution_options=INCLUDE_DELETED).all())


def there(session: Session) -> tuple[dict[str, int], dict[str, int]]:
    """The same, counted."""
    live = select(func.count()).where(Revision.adapter_id == Adapter.id).scalar_subquery()
    adapters: dict[str, int] = dict(session.execute(select(Adapter.path, live)).all())
    names = session.execute(select(BaseModelRecord.name), execution_options=INCLUDE_DELETED).scalars()
    return adapters, {
        name: sum(count > 0 for path, count in adapters.items() if path.startswith(f"{name}/")) for name in names
    }


def check(database: Database) -> dict[str, int]:
    """The counts of base models are right, and so is what lists say of them; returns those."""
    with database.read() as session:
        assert counted(session) == there(session)
        assert set(session.scalars(select(CommitRecord.revision_id))) == set(
            session.scalars(select(Revision.id), execution_options=INCLUDE_DELETED)
        )
        shown = {one.name: one.adapters for one in bases.summaries(session, with_old_names=True)}
        trees = {name: adapters(nodes.tree(session, Section(Path(name)))) for name in shown}
    assert shown == trees
    for name, count in shown.items():
        with database.read(rights("reader", name)) as session:  # these are counted
            assert bases.summary(session, name).adapters == count
    return shown


def adapters(tree: Tree) -> int:
    rest, count = list(tree.roots), 0
    while rest:
        node = rest.pop()
        rest += node.children
        count += node.revision is not None
    return count


def test_counts_follow_every_change(filled: Database, writer: Writer) -> None:
    def changed(work: Callable[[Session], object]) -> dict[str, int]:
        filled.change(work)
        return check(filled)

    def find(session: Session, ref: str) -> int:
        return revisions.find(session, Reference.parse(ref)).id

    assert check(filled) == {"llama": 4}
    assert changed(lambda session: writer.publish(session, "llama/new", "n1")) == {"llama": 5}
    assert changed(lambda session: writer.publish(session, "llama/new", "n2")) == {"llama": 5}
    assert changed(lambda session: deletion.delete(session, find(session, "llama/new@1"), TESTER)) == {"llama": 5}
    assert changed(lambda session: deletion.delete(session, find(session, "llama/new@2"), TESTER)) == {"llama": 4}
    desk = Path.parse("alpaca/help")
    undone = Reference.parse("llama/new@1")
    assert changed(lambda session: undeletion.undo(session, undone, EPOCH, TESTER)) == {"llama": 5}
    gone = select(Revision.id).where(Revision.deleted_at.is_not(None))
    assert changed(
        lambda session: purge.purge(
            session, session.scalars(gone, execution_options=INCLUDE_DELETED).all(), "because", TESTER
        )
    ) == {"llama": 5}
    support = Path.parse("llama/support")
    assert changed(lambda session: rename.rename(session, support, Path.parse("llama/help"), TESTER)) == {"llama": 5}
    assert changed(lambda session: rename.rename_base(session, Path("llama"), Path("alpaca"), TESTER)) == {
        "alpaca": 5,
        "llama": 8,  # an old name: all that were called by it
    }
    assert changed(lambda session: deletion.delete_tree(session, desk, TESTER, with_tags=True)) == {
        "alpaca": 2,
        "llama": 8,
    }
    assert changed(lambda session: undeletion.undo_tree(session, desk, EPOCH, TESTER)) == {
        "alpaca": 5,
        "llama": 8,
    }
    assert changed(lambda session: new_base.delete(session, "alpaca", TESTER, recursive=True)) == {"llama": 8}
    assert changed(lambda session: new_base.undo(session, "alpaca", EPOCH, TESTER)) == {"alpaca": 5, "llama": 8}


def test_programs_of_older_schemas_are_counted_too(filled: Database) -> None:
    with filled.write() as session:
        session.execute(text(OLD_PROGRAM))
    assert check(filled) == {"llama": 4}
    with filled.write() as session:
        session.execute(text("DELETE FROM revisions WHERE id > 1000"))
        session.execute(text("UPDATE revisions SET deleted_at = created_at WHERE digest LIKE '%1%'"))
    check(filled)
