"""What is filled in bulk is what publishing writes, so that the two can't drift apart; and it fits its store."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from registry.catalogue.database.database import Database, sqlite_url
from registry.catalogue.tree import search
from registry.services.local import LocalRegistry
from tests.kit import grown

COUNT = 250


def rows(url: str, how: object) -> dict[str, list[tuple[object, ...]]]:
    database = Database(url)
    database.prepare()
    with database.write() as session:
        how(session, COUNT)  # type: ignore[operator]
    with database.read() as session:
        found = grown.rows_of(session)
        found["searched"] = [
            (one.reference,) for text in ("low", "deep/l1", "OPS-") for one in search.search(session, text)
        ]
    database.dispose()
    return found


@pytest.mark.slow
def test_filling_writes_what_publishing_writes(tmp_path: Path, postgres_url: str) -> None:
    published = rows(sqlite_url(tmp_path / "published.sqlite"), grown.publish)
    assert {name for name, found in published.items() if not found} == set()
    for url in (sqlite_url(tmp_path / "filled.sqlite"), postgres_url):
        filled = rows(url, grown.fill)
        for name, found in published.items():
            assert filled[name] == found, (name, url)


def test_the_tree_is_wide_and_deep_and_has_a_large_adapter() -> None:
    revisions = Counter(one.path for one in grown.planned(20_000))
    assert sum(revisions.values()) == 20_000
    assert revisions[grown.BIG] >= 4_000
    assert sum(path.startswith(f"{grown.WIDE}/customer-") for path in revisions) >= 150
    assert revisions[grown.DEEP] == 3


def test_a_filled_registry_has_its_bytes(tmp_path: Path) -> None:
    with LocalRegistry.open(tmp_path / "registry", create=True) as registry:
        with registry.deployment.database.write() as session:
            grown.fill(session, COUNT)
        grown.store(tmp_path / "registry", COUNT)
        checked = registry.fsck(deep=True)
        assert (checked.damage, checked.orphans) == ((), 0)
        assert checked.blobs > COUNT
        assert registry.gc(dry_run=True).blobs == ()
