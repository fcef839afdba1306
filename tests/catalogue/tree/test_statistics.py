"""What tables of revisions show beside lists, and what adapters touch."""

from __future__ import annotations

from registry.catalogue.database.database import Database
from registry.catalogue.database.statistics_tables import StatisticValueRecord
from registry.catalogue.tree import browse, nodes
from registry.catalogue.tree.statistics import Touched, row_figures, touched
from registry.reference import Path
from registry.schemas import TargetGroup
from tests.catalogue.rows import Writer, rights
from tests.kit.statements import READS, statements


def fill(database: Database, writer: Writer) -> None:
    def group(name: str, modules: int, *scalings: float) -> TargetGroup:
        return TargetGroup(name=name, modules=modules, ranks=(4,), scalings=scalings)

    with database.write() as session:
        writer.base(session, "llama")
        first = writer.publish(session, "llama/a", "1", targets=(group("q_proj", 2, 1.0, 2.0), group("v_proj", 1, 2.0)))
        writer.publish(session, "llama/a", "2", targets=(group("q_proj", 3, 0.5),))
        writer.publish(session, "llama/a/b", "3", first, targets=(group("v_proj", 2, 4.0), group("other", 9, 1.0)))
        writer.publish(session, "llama/c", "4", targets=())
        for key, name, value in ((1, "effective_rank", 3.5), (2, "effective_rank", 2.5), (3, "energy", 1.0)):
            session.add(StatisticValueRecord(revision_id=key, name=name, value=value))


def test_each_row_has_its_own(database: Database, writer: Writer) -> None:
    fill(database, writer)
    with database.read() as session:
        shown = [
            *browse.log(session, Path.parse("llama/a")).revisions,
            *browse.log(session, Path.parse("llama/c")).revisions,
        ]
        with statements(*READS) as sent:
            found = row_figures(session, shown)
    assert len(sent) == 3
    assert {name: one.scalings for name, one in found.items()} == {
        "llama/a@1": {"q_proj": (1.0, 2.0), "v_proj": (2.0,)},
        "llama/a@2": {"q_proj": (0.5,)},
        "llama/c@1": {},
    }
    assert found["llama/a@1"].statistics == {"effective_rank": 3.5}
    assert found["llama/c@1"].statistics == {}


def test_what_the_newest_revisions_touch(database: Database, writer: Writer) -> None:
    fill(database, writer)
    sizes = {"q_proj": 10.0, "v_proj": 7.0}
    with database.read() as session:
        with statements(*READS) as sent:
            found = touched(session, "llama", sizes, 10)
        assert len(sent) == 1
        assert found == [Touched("llama/a", 30, 2.5), Touched("llama/a/b", 14, None), Touched("llama/c", 0, None)]
        assert touched(session, "llama", {}, 1) == [Touched("llama/a", 0, 2.5)]
        assert nodes.names(session, Path("llama"), limit=10) == ["llama/a", "llama/a/b", "llama/c"]
        assert nodes.names(session, Path.parse("llama"), from_place="llama a!", limit=10) == ["llama/c"]
        assert nodes.names(session, Path.parse("llama/a"), limit=1) == ["llama/a"]
        assert [one.reference for one in nodes.newest(session, ["llama/a", "llama/x"]).values()] == ["llama/a@2"]
    with database.read(rights("reader", "llama/a/b")) as session:
        assert touched(session, "llama", sizes, 10) == [Touched("llama/a/b", 14, None)]
        assert nodes.names(session, Path.parse("llama"), limit=10) == ["llama/a/b"]
        assert nodes.newest(session, ["llama/a"]) == {}
