"""Trees that are published, renamed and retracted in any order, against a model of dictionaries."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy.orm import Session

from registry.catalogue.changes import rename, retraction
from registry.catalogue.database.database import Database
from registry.catalogue.tree import browse, nodes, revisions
from registry.catalogue.tree.nodes import Section
from registry.errors import ConflictError, UsageError
from registry.reference import Path, Reference
from tests.catalogue.changes.test_removal import key
from tests.catalogue.changes.test_rename import is_available, names
from tests.catalogue.rows import BOB, ON_SQLITE, Writer

COUNT = itertools.count()


@dataclass
class Model:
    """What should be there, and the database where it is done, under a base model of its own."""

    database: Database
    writer: Writer
    data: st.DataObject
    base: str = field(default_factory=lambda: f"base{next(COUNT)}")
    tree: dict[str, dict[int, tuple[str, str | None]]] = field(default_factory=dict)
    """By path and number: the content, and the parent as a reference."""
    newest: dict[str, str] = field(default_factory=dict)
    """By old name."""
    retracted: set[str] = field(default_factory=set)
    """Contents."""

    def begin(self) -> None:
        with self.database.write() as session:
            self.writer.base(session, self.base)

    @property
    def current(self) -> list[str]:
        return sorted(path for path in self.tree if path not in self.newest)

    def publish(self, content: str) -> None:
        """As a child of something, or as its next revision."""
        above = self.data.draw(st.sampled_from([self.base, *(path for path in self.current if path.count("/") < 3)]))
        path = f"{above}/{self.data.draw(st.sampled_from('abc'))}"
        pinned = None if above == self.base else self.data.draw(st.sampled_from(sorted(self.tree[above])))
        with self.database.write() as session:
            parent = None if pinned is None else revisions.find(session, Reference.parse(f"{above}@{pinned}"))
            if path in self.newest:
                with pytest.raises(ConflictError, match=f"publish to {self.newest[path]} instead"):
                    self.writer.publish(session, path, content, parent)
                return
            row = self.writer.publish(session, path, content, parent)
        self.tree.setdefault(path, {})[row.number] = (content, None if parent is None else parent.reference)

    def rename(self) -> None:
        """To a free name, or to a taken one, which is refused."""
        old = self.data.draw(st.sampled_from(self.current))
        new = f"{old.rpartition('/')[0]}/{self.data.draw(st.sampled_from('abcde'))}"

        def work(session: Session) -> object:
            return rename.rename(session, Path.parse(old), Path.parse(new), BOB)

        if new in self.tree:
            with pytest.raises((ConflictError, UsageError)):
                self.database.change(work)
            return
        self.database.change(work)

        def renamed(text: str | None) -> str | None:
            return new + text.removeprefix(old) if text and text.startswith((f"{old}/", f"{old}@")) else text

        moved = {
            path: new + path.removeprefix(old) for path in self.current if path == old or path.startswith(f"{old}/")
        }
        for path, now in moved.items():
            self.tree[now] = {
                number: (content, renamed(parent)) for number, (content, parent) in self.tree[path].items()
            }
        self.newest = {path: moved.get(now, now) for path, now in self.newest.items()} | moved

    def retract(self) -> None:
        """Under any of its names, or undo that under any."""
        path = self.data.draw(st.sampled_from(sorted(self.tree)))
        number = self.data.draw(st.sampled_from(sorted(self.tree[path])))
        content = self.tree[path][number][0]
        with self.database.write() as session:
            found = key(session, f"{path}@{number}")
            if content in self.retracted:
                retraction.undo(session, found, BOB)
            else:
                retraction.retract(session, found, "bad", BOB)
        self.retracted ^= {content}

    def lineage(self, path: str, number: int) -> set[str]:
        """The contents of a whole lineage."""
        content, parent = self.tree[path][number]
        if parent is None:
            return {content}
        above, _, pinned = parent.partition("@")
        return {content} | self.lineage(above, int(pinned))

    def check(self) -> None:
        """The database says what this says."""
        with self.database.read() as session:
            for path, numbers in self.tree.items():
                found = browse.log(session, Path.parse(path)).revisions
                told = {one.number: (one.message.removeprefix("message of "), one.parent) for one in found}
                assert told == {number: (content, parent or self.base) for number, (content, parent) in numbers.items()}
                assert {one.renamed_to for one in found} == {self.newest.get(path)}
                for number in numbers:
                    expected = self.retracted.isdisjoint(self.lineage(path, number))
                    assert is_available(session, f"{path}@{number}") == expected
            listed = [path for path in names(nodes.tree(session, Section(Path(self.base)))) if "/" in path]
            assert sorted(listed) == self.current


@pytest.mark.slow
@ON_SQLITE
@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
@given(data=st.data())
def test_any_tree(database: Database, writer: Writer, data: st.DataObject) -> None:
    model = Model(database, writer, data)
    model.begin()
    for step in range(data.draw(st.integers(2, 10))):
        act = data.draw(st.sampled_from(["publish", "rename", "retract"])) if model.current else "publish"
        if act == "publish":
            model.publish(f"{model.base} {step}")
        elif act == "rename":
            model.rename()
        else:
            model.retract()
    model.check()
