"""Other repo ids of base models: whose they are, what they may be, and what becomes of them."""

from __future__ import annotations

import pytest
from sqlalchemy import update
from sqlalchemy.orm import Session

from registry.catalogue.changes import also_known_as as changes
from registry.catalogue.changes import new_base, rename
from registry.catalogue.database import events
from registry.catalogue.database.database import Database
from registry.catalogue.database.tables import BaseModelRecord
from registry.catalogue.store import purge
from registry.catalogue.tree import bases, repo_rows
from registry.errors import ConflictError, NotFoundError, UsageError
from registry.reference import Path
from tests.catalogue.rows import BOB, TESTER, Writer, rights

ID = "Org/Llama-1B"


def give(database: Database, name: str = "llama", repo_id: str = ID) -> tuple[str, ...]:
    return database.change(lambda session: changes.give(session, name, repo_id, BOB)).repo_ids


def found(database: Database, repo_id: str = ID, *scopes: str) -> str | None:
    with database.read(rights("reader", *scopes)) as session:
        return repo_rows.base_answering(session, repo_id)


def base(database: Database, name: str, source: str | None = None) -> None:
    def work(session: Session) -> None:
        Writer().base(session, name)
        session.execute(update(BaseModelRecord).where(BaseModelRecord.name == name).values(source=source))

    database.change(work)


def test_it_is_given_and_taken_away(filled: Database) -> None:
    assert found(filled) is None
    assert give(filled) == give(filled) == (ID,)
    assert give(filled, repo_id="a/b") == (ID, "a/b")
    assert found(filled) == found(filled, "a/b") == found(filled, ID, "llama/support") == "llama"
    assert found(filled, ID, "other") is None
    assert found(filled, ID.lower()) is None
    with filled.read() as session:
        assert bases.summary(session, "llama").also_known_as == (ID, "a/b")
    gone = filled.change(lambda session: changes.take_away(session, "llama", "a/b", BOB))
    assert (gone.base, gone.repo_ids, found(filled, "a/b")) == ("llama", (ID,), None)
    with pytest.raises(NotFoundError, match=f"its other repo ids are {ID}"):
        filled.change(lambda session: changes.take_away(session, "llama", "a/b", BOB))
    with filled.read() as session:
        told = events.recent(session, 10, events.EventFilter(kind="base also-known-as"))
    assert [(one.subject, one.actor, one.detail) for one in told] == [
        ("llama", "bob", {"removed": "a/b"}), ("llama", "bob", {"added": "a/b"}), ("llama", "bob", {"added": ID}),
    ]  # fmt: skip


@pytest.mark.long_on("postgresql")
@pytest.mark.parametrize(
    "wrong", ["", "a", "a/b/c", "/b", "a/", "a/.b", "a/b-", "a--b/c", "a/b..c", "a/b.git", "api/b", "a/é", "datasets/b"]
)
def test_what_is_no_repo_id(filled: Database, wrong: str) -> None:
    with pytest.raises(UsageError, match="ORG/NAME is expected") as caught:
        give(filled, repo_id=wrong)
    assert caught.value.code == "bad_name"


def test_an_id_is_one_base_models(filled: Database) -> None:
    base(filled, "other")
    give(filled)
    with pytest.raises(ConflictError, match=f"{ID} is another repo id of llama already"):
        give(filled, "other")
    with pytest.raises(NotFoundError, match="is not also known as"):
        filled.change(lambda session: changes.take_away(session, "other", ID, BOB))
    with (
        pytest.raises(ConflictError, match="another base model already"),
        filled.write(rights("admin", "other")) as own,
    ):
        changes.give(own, "other", ID, BOB)


@pytest.mark.parametrize("repo_id", ["llama/other", "llama/support", "LLAMA/x"])
def test_a_path_comes_first(filled: Database, repo_id: str) -> None:
    """Whether the base model is seen or not: what is below its name is the registry's."""
    base(filled, "new", f"hf:{repo_id}@{'0' * 40}")
    with pytest.raises(ConflictError, match="begins with llama, which is a base model"):
        give(filled, "new", repo_id)
    assert found(filled, repo_id) is None
    assert found(filled, repo_id, "new") is None


def test_no_base_model_takes_a_name_that_ids_begin_with(filled: Database) -> None:
    give(filled, repo_id="Acme/x")
    with pytest.raises(ConflictError, match="also known as Acme/x, so none can be called acme"):
        base(filled, "acme")
    with pytest.raises(ConflictError, match="also known as Acme/x"):
        filled.change(lambda session: rename.rename_base(session, Path("llama"), Path("acme"), BOB))
    base(filled, "acm")


def test_what_is_given_comes_before_sources_and_the_first_of_them_first(filled: Database) -> None:
    for name in ("one", "two", "three"):
        base(filled, name, f"hf:{ID}@{'0' * 40}")
    assert (found(filled), found(filled, ID, "three", "two")) == ("one", "two")
    give(filled, "three")
    assert found(filled) == "three"
    assert found(filled, ID, "two") is None


def test_it_goes_over_to_a_new_name(filled: Database) -> None:
    """For tokens of the old name it is still there; a source is, too."""
    give(filled)
    filled.change(
        lambda session: session.execute(
            update(BaseModelRecord).where(BaseModelRecord.name == "llama").values(source=f"hf:a/b@{'0' * 40}")
        )
    )
    filled.change(lambda session: rename.rename_base(session, Path("llama"), Path("alpaca"), BOB))
    for repo_id in (ID, "a/b"):
        assert found(filled, repo_id) == found(filled, repo_id, "alpaca") == "alpaca"
        assert found(filled, repo_id, "llama") == "llama"
    with pytest.raises(ConflictError, match="publish to alpaca instead") as caught:
        give(filled, "llama", "a/c")
    assert caught.value.code == "renamed"


def test_it_is_gone_with_the_base_model(filled: Database) -> None:
    """While the deletion can be undone the id is taken; after it is purged it is free."""
    give(filled)
    base(filled, "other")
    filled.change(lambda session: new_base.delete(session, "llama", TESTER, recursive=True))
    assert found(filled) is None
    with filled.read(rights("reader", "other")) as session:
        assert repo_rows.is_private(session, ID)
    with pytest.raises(ConflictError, match="another base model already"):
        give(filled, "other")
    filled.change(lambda session: purge.purge_base(session, "llama", "because", TESTER))
    assert give(filled, "other") == (ID,)


def test_what_other_hubs_are_not_asked_about(filled: Database) -> None:
    """By a token that sees nothing of it: names below base models, what admins gave, sources at private Hubs."""
    give(filled)
    base(filled, "here", f"hf:Private/Net@{'0' * 40} at https://hub.example")
    base(filled, "there", f"hf:Public/Net@{'0' * 40}")
    with filled.read(rights("reader", "nothing")) as session:
        for repo_id in ("llama", "llama/x", "Llama/X", ID, ID.lower(), "Private/Net", "private/net", "here/_"):
            assert repo_rows.is_private(session, repo_id), repo_id
        for repo_id in ("Public/Net", "llam/x", "llama2/x", "Private/Ne", "Private_Net"):
            assert not repo_rows.is_private(session, repo_id), repo_id
