"""Statistics are computed once, kept with the revision, and shown to whom the revision is shown."""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from sqlalchemy import text

from registry.catalogue.database.database import Database
from registry.catalogue.tree import statistics as rows
from registry.errors import NotFoundError, UnavailableError
from registry.operations.registry import Registry
from registry.reference import Path as TreePath
from registry.rights import Principal, Rights
from registry.services.deployment import Deployment
from registry.services.local import LocalRegistry
from registry.tensors.analysis import statistics as analysis
from tests.kit import Base, plain_base, write_chain
from tests.kit.registries import ON_HTTP, ON_TEAM_AT_LENGTH, opened

SHAPES = {"a.weight": (24, 16), "b.weight": (16, 24)}
EMBEDDED = pytest.mark.parametrize("registry", ["embedded"], indirect=True)
INSIDE = pytest.mark.parametrize("registry", ["embedded", ON_TEAM_AT_LENGTH], indirect=True)


@pytest.fixture(params=["embedded", ON_HTTP, ON_TEAM_AT_LENGTH])
def registry(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Registry]:
    with opened(request, tmp_path) as kept:
        yield kept


@pytest.fixture
def base(registry: Registry, tmp_path: Path) -> Base:
    """In the registry as net, with net/one@1, net/one/two@1 and net/one/two/three@1, one on top of another."""
    made = plain_base(tmp_path / "base", SHAPES)
    registry.add_base("net", made.folder)
    path = "net"
    for name, folder in zip(("one", "two", "three"), write_chain(tmp_path, made, 3, ["a", "b"], r=2), strict=True):
        path = f"{path}/{name}"
        registry.publish(folder, path)
    return made


def deployment(registry: Registry) -> Deployment:
    assert isinstance(registry, LocalRegistry)
    return registry.deployment


@pytest.fixture
def computed(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    """What is computed meanwhile: the first link that counts, and how many there are."""
    spans: list[tuple[int, int]] = []
    real = analysis.delta_statistics

    def counted(links, table, *, since=0, norms=None):  # type: ignore[no-untyped-def]
        spans.append((since, len(links)))
        return real(links, table, since=since, norms=norms)

    monkeypatch.setattr(analysis, "delta_statistics", counted)
    return spans


def test_the_same_in_process_and_over_http(registry: Registry, base: Base) -> None:
    found = registry.stats("net/one/two/three")
    assert [link.reference for link in found.links] == ["net/one@1", "net/one/two@1", "net/one/two/three@1"]
    assert (found.reference, found.since, found.path.rank) == ("net/one/two/three@1", "net", 6)
    assert registry.stats("net/one/two/three@1") == found
    frame = found.to_pandas()
    assert len(frame) == 2 * 4
    assert set(frame["delta"]) == {*(link.reference for link in found.links), "net..net/one/two/three@1"}
    assert frame["rank"].sum() == 2 * (2 + 2 + 2 + 6)


@INSIDE
def test_each_delta_is_computed_once(registry: Registry, base: Base, computed: list[tuple[int, int]]) -> None:
    first = registry.stats("net/one/two")
    assert sorted(computed) == [(0, 1), (0, 2), (1, 2)]
    computed.clear()
    assert registry.stats("net/one/two") == first
    assert computed == []
    registry.stats("net/one/two/three")
    assert sorted(computed) == [(0, 3), (2, 3)]
    computed.clear()
    registry.stats("net/one/two/three", since="net/one")  # no path of a revision: not kept
    assert computed == [(1, 3)]
    registry.rename("net/one", "uno")
    computed.clear()
    assert [link.delta for link in registry.stats("net/uno/two").links] == [link.delta for link in first.links]
    assert computed == []


@INSIDE
def test_another_form_is_computed_again(
    registry: Registry, base: Base, computed: list[tuple[int, int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    before = registry.stats("net/one")
    monkeypatch.setattr(rows, "FORMAT", rows.FORMAT + 1)
    computed.clear()
    assert registry.stats("net/one") == before
    assert computed
    computed.clear()
    assert registry.stats("net/one") == before
    assert computed == []


@INSIDE
def test_figures_without_norms_are_made_again_once_the_base_is_measured(
    registry: Registry, base: Base, computed: list[tuple[int, int]]
) -> None:
    where = deployment(registry)
    where.change(lambda session: session.execute(text("DELETE FROM base_norms")))
    before = registry.stats("net/one")
    assert before.path.relative_frobenius is None
    assert registry.stats("net/one") == before
    assert len(computed) == 1  # one span for both
    assert registry.measure_base("net").measured
    after = registry.stats("net/one")
    assert after.path.relative_frobenius is not None
    assert after.path.model_copy(update={"modules": (), "relative_frobenius": None, "relative_spectral": None}) == (
        before.path.model_copy(update={"modules": ()})
    )
    assert registry.stats("net/one") == after
    assert len(computed) == 2


@INSIDE
def test_they_go_with_the_revision(registry: Registry, base: Base) -> None:
    registry.stats("net/one/two/three")
    where = deployment(registry)
    count = text("SELECT (SELECT count(*) FROM statistics), (SELECT count(*) FROM statistic_values)")

    def kept() -> tuple[int, int]:
        with where.read() as session:
            return tuple(session.execute(count).one())

    documents, values = kept()
    assert (documents, values % 3) == (4, 0)
    registry.delete("net/one/two/three@1")
    with pytest.raises(NotFoundError):
        registry.stats("net/one/two/three")
    long_ago = text("UPDATE revisions SET deleted_at = '2000-01-02 00:00:00+00:00' WHERE deleted_at IS NOT NULL")
    where.change(lambda session: session.execute(long_ago))
    registry.gc()
    assert kept() == (2, 2 * values // 3)


@INSIDE
def test_a_deleted_revision_keeps_nothing(registry: Registry, base: Base) -> None:
    where = deployment(registry)
    made = registry.stats("net/one").path
    where.change(lambda session: rows.keep(session, {rows.Key(10**6, "link"): made}, relative=True))
    with where.read() as session:
        assert rows.kept(session, [rows.Key(10**6, "link")], relative=True) == {}


@EMBEDDED
def test_hidden_links_have_no_figures_of_their_own(registry: Registry, base: Base) -> None:
    assert isinstance(registry, LocalRegistry)
    everything = registry.stats("net/one/two/three")
    scoped = registry.with_principal(Principal("ann", Rights("reader", (TreePath.parse("net/one/two"),))))
    seen = scoped.stats("net/one/two/three")
    assert [link.reference for link in seen.links] == ["net/one/two@1", "net/one/two/three@1"]
    assert seen.path == everything.path
    for ref in ("net/one", "net/one@1"):
        with pytest.raises(NotFoundError):
            scoped.stats(ref)
    with pytest.raises(NotFoundError):
        scoped.stats("net/one/two/three", since="net/one")


@EMBEDDED
def test_retracted_revisions_have_statistics(registry: Registry, base: Base) -> None:
    before = registry.stats("net/one/two")
    registry.retract("net/one@1", reason="wrong data")
    assert registry.stats("net/one/two") == before
    assert registry.stats("net/one/two/three").path.rank == 6


@EMBEDDED
def test_a_registry_that_cannot_be_written_is_analysed(
    registry: Registry, base: Base, computed: list[tuple[int, int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    read_only = UnavailableError("The database can't be written.", code="read_only")
    with monkeypatch.context() as patch:
        patch.setattr(Database, "change", lambda *_, **__: (_ for _ in ()).throw(read_only))
        before = registry.stats("net/one")
    computed.clear()
    assert registry.stats("net/one") == before
    assert computed == [(0, 1)]  # nothing was kept


@INSIDE
def test_asked_at_once(registry: Registry, base: Base) -> None:
    with ThreadPoolExecutor(6) as pool:
        answers = list(pool.map(lambda _: registry.stats("net/one/two/three"), range(6)))
    assert all(answer == answers[0] for answer in answers)
    with deployment(registry).read() as session:
        documents = session.execute(text("SELECT document FROM statistics")).scalars().all()
    assert len(documents) == 4
    assert all(zlib.decompress(document) for document in documents)
