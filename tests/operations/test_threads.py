"""Threads share one registry, and one artifact: what docs/python.md promises.

What was opened last stays open while somebody uses it, and no longer.
"""

from __future__ import annotations

from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier

import pytest

from registry.operations.readable import LastOpened
from registry.operations.registry import Registry
from registry.schemas import Published
from tests.kit.serving import keep_waiting

THREADS = 6


@pytest.mark.slow_on("over HTTP")
def test_threads_share_a_registry(team: Registry, workshop: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each publishes, reads, labels and fetches, all at once; the answers are those of one after the other."""
    keep_waiting(monkeypatch)  # statistics that are kept between two reads would make the second say more
    begin = Barrier(THREADS)

    def work(number: int) -> tuple[Published, str]:
        begin.wait()
        published = team.publish("./out/legal", f"llama/legal-{number}", metrics={"number": number})
        again = team.publish("./out/legal", "llama/shared", annotations={f"thread-{number}": "was here"})
        team.tag(published.revision.reference, "prod")
        assert team.show(f"llama/legal-{number}@prod").revision == team.log(f"llama/legal-{number}").revisions[0]
        fetched = team.fetch(f"llama/legal-{number}", workshop / f"merged-{number}", kind="merged")
        assert team.verify(fetched.folder).equal
        assert team.search(tag="prod").revisions
        return again, fetched.rendering

    with ThreadPoolExecutor(THREADS) as pool:
        done = list(pool.map(work, range(THREADS)))
    assert Counter(shared.created for shared, _ in done) == {True: 1, False: THREADS - 1}
    assert len({rendering for _, rendering in done}) == 1  # the same weights
    (shared,) = team.log("llama/shared").revisions
    assert shared.annotations == {f"thread-{number}": "was here" for number in range(THREADS)}
    for number in range(THREADS):
        (revision,) = team.log(f"llama/legal-{number}").revisions
        assert (revision.metrics, revision.tags) == ({"number": number}, ("prod",))
    assert len(team.tree("llama").roots[0].children) == THREADS + 2  # support, and shared


def test_threads_share_an_artifact(team: Registry, workshop: Path) -> None:
    fetched = team.fetch("llama/support/french", workshop / "merged", kind="merged")
    whole = (workshop / "merged/model.safetensors").read_bytes()
    with team.artifact("llama/support/french", kind="merged") as artifact:
        file = artifact.file("model.safetensors")
        ranges = [(start, min(start + 999, len(whole))) for start in range(0, len(whole), 700)]
        with ThreadPoolExecutor(THREADS) as pool:
            parts = list(pool.map(lambda at: file.read(*at), ranges))
            models = list(pool.map(lambda _: {name: tensor.sum() for name, tensor in artifact.tensors()}, range(3)))
    assert artifact.rendering == fetched.rendering
    assert parts == [whole[start:stop] for start, stop in ranges]
    assert models[0] == models[1] == models[2]


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
