"""Pushes whose requests or answers are lost: once they are through, there is one revision, and nothing waits.

A client repeats some requests by itself; where it raises, its user runs the push again.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import pytest
from huggingface_hub import HfApi
from huggingface_hub.utils import _http

from registry.catalogue.store import uploads as stored_uploads
from registry.reference import Path as TreePath
from registry.rights import UNLIMITED, Principal
from registry.services.intake import uploads
from registry.services.pushing import repo
from tests.hub.writing.conftest import PAIR, Pushing, repo_of
from tests.hub.writing.journeys import JOURNEYS, Journey, folder, halves
from tests.kit.shim import Fault, Shim

# The client's own, about how it calls its HTTP library.
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")

FAULTS: dict[str, Callable[[], Fault]] = {
    "lost": lambda: Fault(times=1, lose_answer=True),
    "503 in its place": lambda: Fault(times=1, lose_answer=True, status=503),
    "503 before": lambda: Fault(times=1, status=503),
    "cut": lambda: Fault(times=1, cut_request=300),
}
COMMITS = r"/commit/main$"


@dataclass
class Line:
    """The client of a token of its own, and the line to the service that may break."""

    pushing: Pushing
    shim: Shim
    api: HfApi
    me: Principal

    def push(self, journey: Journey, path: str, adapter: Path) -> tuple[str, bool]:
        """Push until it is through: the commit, and whether the client raised in between."""
        try:
            return journey(self.api, repo_of(path), adapter), False
        except Exception:  # noqa: BLE001 - whatever the client raises when a request fails
            assert len(self.pushing.revisions(path)) <= 1
            if not self.pushing.revisions(path):
                assert not self.pushing.api("reader").repo_exists(repo_of(path))
            return journey(self.api, repo_of(path), adapter), True

    def check(self, path: str, made: str, *adapters: Path) -> None:
        """One revision of each adapter, the newest is the commit that the client was told, and nothing waits."""
        assert [one.number for one in self.pushing.revisions(path)] == list(range(1, len(adapters) + 1))
        for number, adapter in enumerate(adapters, 1):
            found = self.pushing.files(f"{path}@{number}", adapter / "back" / path)
            assert {name: found[name] for name in PAIR} == {name: (adapter / name).read_bytes() for name in PAIR}
        assert self.api.model_info(repo_of(path)).sha == made
        with self.pushing.registry.deployment.read() as session:
            assert stored_uploads.pushed_of(session, TreePath.parse(path), self.me) == {}


@pytest.fixture
def line(pushing: Pushing, monkeypatch: pytest.MonkeyPatch) -> Iterator[Line]:
    monkeypatch.setattr(_http, "time", SimpleNamespace(sleep=lambda _: None))  # before it repeats a request
    made = pushing.registry.create_token("writer", name=pushing.name())
    with Shim(pushing.address) as shim:
        api = HfApi(endpoint=f"{shim.url}/hf", token=made.secret)
        yield Line(pushing, shim, api, Principal("pusher", UNLIMITED, token=made.token.id))


@pytest.fixture
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Weights of a few hundred bytes go by LFS, in parts, if the client has them in no path."""
    monkeypatch.setattr(repo, "MOST_INLINE", 100)
    monkeypatch.setattr(uploads, "part_size", lambda _: 200)


def adapter_of(pushing: Pushing) -> Path:
    made = pushing.adapter()
    (made / "README.md").write_text("---\nlicense: mit\n---\nA card.\n")
    return made


def broken(line: Line, journey: Journey, strike: Fault) -> bool:
    """Push a new adapter while a fault strikes, then another one; whether the client raised."""
    path, first, second = line.pushing.name(), adapter_of(line.pushing), adapter_of(line.pushing)
    line.shim.faults = [strike]
    made, raised = line.push(journey, path, first)
    assert strike.times == 0
    line.check(path, made, first)
    made, failed = line.push(journey, path, second)
    assert not failed
    line.check(path, made, first, second)
    return raised


@pytest.mark.parametrize("fault", ["lost", "503 in its place"])
@pytest.mark.parametrize("journey", [folder, halves])
def test_the_last_commit(line: Line, journey: Journey, fault: str) -> None:
    strike = FAULTS[fault]()
    strike.method, strike.target = "POST", COMMITS
    strike.skip = 1 if journey is halves else 0  # the commit that completes the pair
    assert broken(line, journey, strike) == (journey is not folder)


@pytest.mark.long
@pytest.mark.parametrize("name", JOURNEYS)
def test_any_request(request: pytest.FixtureRequest, line: Line, name: str) -> None:
    """Thirty times, at drawn requests of all that a push makes."""
    journey = JOURNEYS[name]
    if name.startswith("large"):
        request.getfixturevalue("_small")
    journey(line.api, repo_of(line.pushing.name()), adapter_of(line.pushing))
    count, draw, raised = len(line.shim.seen()), random.Random(name), 0
    for _ in range(30):
        strike = FAULTS[draw.choice([*FAULTS])]()
        strike.skip = draw.randrange(count)
        raised += broken(line, journey, strike)
    assert raised  # else no request was lost that the client does not repeat
