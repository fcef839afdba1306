"""A deletion beside a publish of the same content, and what an undo says that names the wrong thing."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest
from sqlalchemy.orm import Session

from registry.catalogue.changes import publish
from registry.catalogue.store import blobs
from registry.errors import UsageError
from registry.schemas import Deleted
from tests.kit import plain_base, write_adapter
from tests.kit.places import KINDS, Place, open_place


def _fill(place: Place, room: Path) -> Path:
    """Publish ``net/one@1``; the adapter's folder."""
    base = plain_base(room / "base", {"a.weight": (24, 16)})
    folder = write_adapter(room / "adapter", base, ["a"], r=1)
    place.registry.add_base("net", base.folder)
    place.registry.publish(folder, "net/one", tags=["prod"])
    return folder


@pytest.mark.parametrize("kind", KINDS)
def test_an_undo_names_no_command_that_deletes(kind: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    with open_place(request, tmp_path / "registry", kind=kind) as place:
        _fill(place, tmp_path)
        registry = place.registry
        with pytest.raises(UsageError, match="`registry base delete net --undo` restores it with its adapters"):
            registry.delete_tree("net", undo=True)
        with pytest.raises(UsageError, match="`registry base delete net --undo` restores base models"):
            registry.delete("net", undo=True)
        for reference in ("net/one", "net/one@prod"):
            with pytest.raises(UsageError, match="or restore what was last deleted at and under net/one with -r"):
                registry.delete(reference, undo=True)
        with pytest.raises(UsageError, match="or delete all of net/one and what is under it with -r"):
            registry.delete("net/one")


def test_what_is_deleted_while_it_is_published_again_is_published_anew(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # On SQLite a writer is alone: nobody comes between.
    with open_place(request, tmp_path / "registry", kind="team") as place:
        folder = _fill(place, tmp_path)
        looked = publish._place
        gone: list[Deleted] = []

        def place_of(session: Session, new: publish.NewRevision) -> publish._Place:
            found = looked(session, new)
            if not gone:
                gone.append(place.registry.delete("net/one@1", with_tags=True))  # in a transaction of its own
            return found

        monkeypatch.setattr(publish, "_place", place_of)
        # On a busy machine a second has passed: the publish would note the use of its blobs, and hold their rows.
        monkeypatch.setattr(blobs, "_FRESH", timedelta(hours=1))
        again = place.registry.publish(folder, "net/one", tags=["next"])
        assert (again.created, again.revision.reference, again.revision.tags) == (True, "net/one@2", ("next",))
        assert again.revision.digest == gone[0].digest
