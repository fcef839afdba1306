"""Base models: the same weights again, other weights, nearest names."""

from __future__ import annotations

import pytest

from registry.catalogue.changes import new_base
from registry.catalogue.database.database import Database
from registry.catalogue.tree import bases
from registry.errors import ConflictError, NotFoundError, UnavailableError, UsageError
from tests.catalogue.rows import TESTER, Writer, digest_of


def test_everything_about_a_base_model(filled: Database) -> None:
    with filled.read() as session:
        row = bases.get(session, "llama")
        summary = bases.summary(session, "llama")
        assert bases.summaries(session) == (summary,)
    assert (row.digest, row.index.digest, row.table.digest) == (
        digest_of("w"),
        digest_of("llama index"),
        digest_of("llama table"),
    )
    assert [(file.path, file.size) for file in row.files] == [("config.json", 17), ("model.safetensors", 25)]
    assert row.files[0].blocks_digest == digest_of("llama config.json blocks")
    assert (summary.adapters, summary.notices, summary.size) == (4, ("a notice",), 2048)
    assert [file.path for file in summary.files] == ["config.json", "model.safetensors"]
    assert summary.created_at.tzinfo is not None


def test_the_same_weights_again_are_the_same_base(filled: Database, writer: Writer) -> None:
    with filled.write() as session:
        summary, created = new_base.add(session, writer.new_base("llama"), TESTER)
    assert (summary.adapters, created) == (4, False)


def test_other_weights_under_the_name(filled: Database, writer: Writer) -> None:
    with pytest.raises(ConflictError) as caught, filled.write() as session:
        new_base.add(session, writer.new_base("llama", "others"), TESTER)
    assert caught.value.code == "other_weights"
    assert digest_of("w") in str(caught.value)
    assert digest_of("others") in str(caught.value)


def test_files_that_are_not_stored_and_names_outside_the_grammar(database: Database, writer: Writer) -> None:
    with pytest.raises(UnavailableError, match="no longer stored"), database.write() as session:
        new_base.add(session, writer.new_base("llama"), TESTER)
    with pytest.raises(UsageError, match="Base model name"), database.write() as session:
        new_base.add(session, writer.new_base("Llama"), TESTER)
    with database.read() as session:
        assert bases.summaries(session) == ()
        with pytest.raises(NotFoundError, match="registry base add"):
            bases.get(session, "llama")


def test_an_unknown_name_offers_the_nearest(filled: Database) -> None:
    with filled.read() as session:
        with pytest.raises(NotFoundError, match=r"There is no base model lama\. Did you mean llama\?"):
            bases.get(session, "lama")
        with pytest.raises(NotFoundError, match=r"The base models are: llama\."):
            bases.summary(session, "bert")


def test_pages_of_base_models(filled: Database, writer: Writer) -> None:
    with filled.write() as session:
        for name in ("bert", "phi", "qwen"):
            writer.base(session, name)
    with filled.read() as session:
        whole = bases.summaries(session)
        assert [one.name for one in whole] == ["bert", "llama", "phi", "qwen"]
        assert [one.adapters for one in whole] == [0, 4, 0, 0]
        assert bases.summaries(session, limit=2) + bases.summaries(session, after="llama", limit=2) == whole
        assert bases.summaries(session, after="qwen") == ()
