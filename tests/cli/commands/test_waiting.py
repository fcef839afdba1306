"""``publish --resume``: what a training could not publish comes in later; what is refused goes on waiting."""

from __future__ import annotations

import json
from contextlib import closing
from pathlib import Path

import pytest

from registry.services.local import LocalRegistry
from registry.training.outbox import Outbox, ToPublish
from tests.cli.conftest import Run
from tests.kit import plain_base, write_adapter


@pytest.fixture
def output(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Of a training that ended while the registry was away: two steps of one path, and one of a path without parent."""
    monkeypatch.setenv("REGISTRY_URL", str(tmp_path / "registry"))
    base = plain_base(tmp_path / "base", {"a.weight": (8, 6)})
    with closing(LocalRegistry.open(tmp_path / "registry", cache_folder=tmp_path / "cache")) as team:
        team.add_base("net", base.folder)
    outbox = Outbox(tmp_path / "out")
    training = outbox.begin(resumed=False).run
    for step, path in ((2, "net/one"), (4, "net/two/child"), (6, "net/one")):
        metrics = {"eval_loss": 1 / step}
        words = ToPublish(run=training, path=path, step=step, metrics=metrics, final=step == 6, tags=("done",))

        def save(place: Path, seed: int = step) -> None:
            write_adapter(place, base, ["a"], r=1, seed=seed)

        outbox.add(words, save)
    return tmp_path / "out"


def test_what_waits_is_published_and_what_is_refused_goes_on_waiting(output: Path, run: Run, tmp_path: Path) -> None:
    ended = run("publish", "--resume", str(output))
    assert (ended.code, ended.out.split()) == (3, ["net/one@1", "net/one@2"])
    assert "not published: " in ended.err
    assert "net/two" in ended.err
    (left,) = Outbox(output).waiting()
    assert Outbox(output).read(left).document.path == "net/two/child"
    shown = json.loads(run("show", "net/one@done", "--json").out)["revision"]
    assert (shown["reference"], shown["metrics"]) == ("net/one@2", {"eval_loss": 1 / 6})

    other = write_adapter(tmp_path / "two", plain_base(tmp_path / "again", {"a.weight": (8, 6)}), ["a"], r=1, seed=7)
    for alpha in ("first", "second"):
        (other / "README.md").write_text(alpha)
        assert run("publish", str(other), "net/two").code == 0
    assert run("publish", str(output), "--resume").code == 2, "the parent has two revisions"
    ended = run("publish", "--resume", str(output), "--parent", "net/two@1", "--json")
    assert (ended.code, [one["parent"] for one in json.loads(ended.out)]) == (0, ["net/two@1"])
    assert "Nothing waits in" in run("publish", "--resume", str(output)).err


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["net/one"], "PATH can't be given with --resume"),
        (["-m", "again"], "-m can't be given with --resume"),
        (["--dry-run"], "--dry-run can't be given with --resume"),
    ],
)
def test_what_waits_has_its_words_with_it(output: Path, run: Run, more: list[str], said: str) -> None:
    ended = run("publish", "--resume", str(output), *more)
    assert ended.code == 2
    assert said in ended.err
    assert len(Outbox(output).waiting()) == 3


def test_a_folder_without_a_training_is_refused(output: Path, run: Run) -> None:
    ended = run("publish", "--resume", str(output.parent))
    assert ended.code == 3
    assert "has no folder _registry" in ended.err
