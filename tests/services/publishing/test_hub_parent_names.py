"""What stands for the parent in a configuration is read up to the length of a path: a stranger chooses it."""

from __future__ import annotations

import pytest

from registry.reference import Path as TreePath
from registry.services.publishing.hub_parent import TrainedOn

COMMIT = "0123456789abcdef0123456789abcdef01234567"
CACHED = f"/models--net--a/snapshots/{COMMIT}"


def test_a_folder_is_read_up_to_the_length_that_a_system_opens() -> None:
    found = TrainedOn(TreePath("net", ("a",)), COMMIT)
    assert TrainedOn.of("/" + "f" * (4095 - len(CACHED)) + CACHED, None) == found
    assert TrainedOn.of("/" + "f" * (4096 - len(CACHED)) + CACHED, None) is None


@pytest.mark.parametrize("text", ["/models--" + "-" * 191, CACHED, "a.", "/"])
def test_what_is_longer_is_not_looked_at(text: str) -> None:
    """Trying every split of seven megabytes would hold up the whole service for many seconds."""
    assert TrainedOn.of("net/" + text * (7_000_000 // len(text)) + CACHED, None) is None


def test_a_long_revision_is_told_short() -> None:
    told = TrainedOn.of("net/a", "r" * 1_000_000)
    assert told is not None
    assert len(told.words) < 200
