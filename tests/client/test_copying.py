"""Trees that move between services: bytes by digest, checked, and only what is missing."""

from __future__ import annotations

from pathlib import Path

import pytest

from registry.services.local import LocalRegistry
from tests.client.conftest import MakeTeam, Team
from tests.kit import Base, plain_base, write_adapter


def published(team: Team, tmp_path: Path) -> Base:
    made = plain_base(tmp_path / "base", {"a.weight": (24, 16), "b.weight": (16, 24)})
    team.local.add_base("net", made.folder)
    team.local.publish(write_adapter(tmp_path / "one", made, ["a"], r=2), "net/one", tags=["prod"])
    team.local.publish(write_adapter(tmp_path / "two", made, ["b"], r=2), "net/one/two")
    return made


@pytest.mark.slow
def test_from_a_laptop_to_a_team_and_on_to_another(team: Team, make_team: MakeTeam, tmp_path: Path) -> None:
    published(team, tmp_path)
    other = make_team(LocalRegistry.open(tmp_path / "other"))
    source, target = team.client("source"), other.client("target")
    copied = team.local.copy("net", target, recursive=True)
    assert [one.reference for one in copied.revisions] == ["net/one@1", "net/one/two@1"]
    assert source.copy("net", target, recursive=True).bytes_copied == 0  # all was there
    assert target.show("net/one@prod").revision.digest == source.show("net/one@prod").revision.digest  # type: ignore[union-attr]
    third = LocalRegistry.open(tmp_path / "third")
    assert target.copy("net/one/two", third).base_created
    for kind in ("published", "lora", "merged"):
        here = third.fetch("net/one/two", tmp_path / f"here-{kind}", kind=kind)
        there = source.fetch("net/one/two", tmp_path / f"there-{kind}", kind=kind)
        assert here.files == there.files
    third.close()
