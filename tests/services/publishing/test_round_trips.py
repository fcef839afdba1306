"""How often a publish asks the database and the store: one read transaction in the plan, one and a write in the commit.

Each statement, PostgreSQL's own BEGIN and COMMIT included, is a trip to the server and back.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import botocore.client
import pytest
from sqlalchemy import event, text
from sqlalchemy.engine import Engine

from registry.files.source import FileSource
from registry.operations import table
from registry.schemas import Published
from registry.schemas.transfer import PublishCommit, PublishPlan
from registry.services.local import LocalRegistry
from registry.transfer.publish_request import PublishFolder
from tests.kit import Base, plain_base, write_adapter
from tests.kit.sending import request_of
from tests.kit.statements import statements

SHAPES = {"a.weight": (24, 16), "b.weight": (16, 24)}


@dataclass
class Sent:
    """What was sent meanwhile."""

    statements: list[str] = field(default_factory=list)
    transactions: int = 0
    store: list[str] = field(default_factory=list)

    @property
    def trips(self) -> int:
        """Round trips to a PostgreSQL server."""
        return len(self.statements) + self.transactions  # COMMIT is no statement of SQLAlchemy's, BEGIN is one


@contextmanager
def counted() -> Iterator[Sent]:
    sent, call = Sent(), botocore.client.BaseClient._make_api_call

    def begun(connection: object) -> None:
        sent.transactions += 1

    def asked(client: Any, name: str, how: Any) -> Any:
        sent.store.append(name)
        return call(client, name, how)

    event.listen(Engine, "begin", begun)
    with pytest.MonkeyPatch.context() as patch, statements() as said:
        patch.setattr(botocore.client.BaseClient, "_make_api_call", asked)
        try:
            yield sent
        finally:
            sent.statements += (statement for statement, _ in said)
            event.remove(Engine, "begin", begun)


@pytest.fixture
def base(registry: LocalRegistry, tmp_path: Path) -> Base:
    made = plain_base(tmp_path / "base", SHAPES)
    registry.add_base("net", made.folder)
    return made


def asked_for(folder: Path, path: str) -> PublishFolder:
    return request_of(folder, path)


def planned(registry: LocalRegistry, asked: PublishFolder) -> tuple[PublishPlan, Sent]:
    with counted() as sent:
        plan = registry.do(table.PLAN_PUBLISH, asked.request)
    return plan, sent


def committed(registry: LocalRegistry, commit: PublishCommit) -> tuple[Published, Sent]:
    old = "UPDATE blobs SET used_at = '2000-01-02 03:04:05.000000'"  # their grace starts anew, which is a statement
    registry.deployment.change(lambda session: session.execute(text(old)))
    with counted() as sent:
        answer = registry.do(table.COMMIT_PUBLISH, commit)
    return answer, sent


def is_team(registry: LocalRegistry) -> bool:
    return registry.deployment.folder is None


def test_of_stored_bytes(registry: LocalRegistry, base: Base, tmp_path: Path) -> None:
    folder = write_adapter(tmp_path / "adapter", base, ["a"], seed=1)
    registry.publish(folder, "net/first")
    # A parent is two statements: its newest revisions, and its lineage with files and targets.
    for path, more in (("net/second", 0), ("net/first/below", 2), ("net/first/again", 2)):
        plan, sent = planned(registry, asked_for(folder, path))
        assert (plan.missing, sent.transactions, sent.store) == ((), 1, [])
        begin = 1 if is_team(registry) else 0
        # The last two: other names of the base model, and who else has these files.
        assert len(sent.statements) == begin + 7 + more, sent.statements
        in_plan = sent.trips
        answer, sent = committed(registry, PublishCommit(request=asked_for(folder, path).request, uploads={}))
        assert answer.created
        assert sent.transactions == 2
        if not is_team(registry):
            continue
        # A parent's files are read once by a process.
        assert sent.store.count("GetObject") <= (1 if path != "net/first/below" else 3), sent.store
        if path != "net/first/below":
            assert sent.store == ["GetObject"]
        tokens = 2  # one query a request
        assert in_plan + sent.trips + tokens == 29 + 2 * more + bool(more), (path, sent.statements)


def test_of_new_bytes(registry: LocalRegistry, base: Base, tmp_path: Path) -> None:
    registry.publish(write_adapter(tmp_path / "one", base, ["a"], seed=1), "net/one")
    asked = asked_for(write_adapter(tmp_path / "two", base, ["a"], seed=2), "net/two")
    plan, _ = planned(registry, asked)
    (digest,) = plan.missing
    with counted() as sent, FileSource(asked.sources[digest]) as source:
        upload = registry.upload(digest, source)
    assert sent.store == (["PutObject"] if is_team(registry) else [])
    answer, sent = committed(registry, PublishCommit(request=asked.request, uploads={digest: upload}))
    assert answer.created
    assert sent.transactions == 2
    if is_team(registry):
        assert sent.store == ["CopyObject", "HeadObject", "GetObject", "DeleteObject"]
        assert sent.trips == 19, sent.statements
    with registry.deployment.read() as session:
        assert session.execute(text("SELECT count(*) FROM uploads")).scalar_one() == 0


def test_of_what_is_there_already(registry: LocalRegistry, base: Base, tmp_path: Path) -> None:
    """No bytes are looked at, in the database or in the store."""
    folder = write_adapter(tmp_path / "adapter", base, ["a"], seed=1)
    first = registry.publish(folder, "net/first")
    plan, sent = planned(registry, asked_for(folder, "net/first"))
    assert (plan.existing, plan.missing, sent.transactions) == (first.revision.reference, (), 1)
    answer, sent = committed(registry, PublishCommit(request=asked_for(folder, "net/first").request, uploads={}))
    assert (answer.created, answer.revision) == (False, first.revision)
    assert (sent.transactions, sent.store) == (2, [])


@pytest.mark.parametrize("labelled", [False, True])
def test_the_answer_is_what_the_revision_shows(
    registry: LocalRegistry, base: Base, tmp_path: Path, labelled: bool
) -> None:
    """It is made of what was written, without reading that again."""
    labels: dict[str, Any] = {}
    if labelled:
        labels = {"message": "why", "metrics": {"b": 2.0, "a": 1}, "tags": ("x", "a", "x"), "annotations": {"k": "v"}}
    publish: Callable[..., Published] = registry.publish
    for path in ("net/one", "net/one/two", "net/one/two/three"):
        folder = write_adapter(tmp_path / path, base, ["a"], seed=len(path))
        answer = publish(folder, path, **labels)
        assert answer.revision == registry.show(answer.revision.reference).revision
    publish(write_adapter(tmp_path / "newer", base, ["b"], seed=9), "net/one")
    behind = write_adapter(tmp_path / "behind", base, ["b"], seed=10)
    answer = publish(behind, "net/one/two", parent="net/one@1", **labels)
    assert answer.revision.behind
    assert answer.revision == registry.show(answer.revision.reference).revision
