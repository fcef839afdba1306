"""What was opened last stays open while somebody uses it, and no longer."""

from __future__ import annotations

import pytest

from registry.operations.last_opened import LastOpened


class Thing:
    def __init__(self) -> None:
        self.closed = 0

    def close(self) -> None:
        self.closed += 1


def test_the_last_one_is_kept_and_the_others_closed() -> None:
    made: list[Thing] = []

    def make() -> Thing:
        made.append(Thing())
        return made[-1]

    last: LastOpened[Thing] = LastOpened()
    with last.of("a", make) as first, last.of("a", make) as same:
        assert first is same
        with last.of("b", make) as other:
            assert (other is first, first.closed) == (False, 0)  # still used
    assert [one.closed for one in made] == [1, 0]
    with last.of("b", make) as again:
        last.close()
        assert (again, again.closed) == (made[1], 0)
    assert [one.closed for one in made] == [1, 1]
    with last.of("b", make):
        pass
    assert len(made) == 3


def test_what_cannot_be_opened_leaves_the_last_one() -> None:
    def refuse() -> Thing:
        raise ValueError

    last: LastOpened[Thing] = LastOpened()
    with last.of("a", Thing) as first:
        pass
    with pytest.raises(ValueError), last.of("b", refuse):
        pass
    with last.of("a", refuse) as same:
        assert same is first
