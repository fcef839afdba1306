"""registry import: a plan that is written, edited and applied; what it prints, and with which code it ends."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from registry.services.local import LocalRegistry
from tests.cli.conftest import Run
from tests.services.importing.plain_heap import PlainHeap


def test_a_heap_is_planned_and_brought_in(tmp_path: Path, run: Run) -> None:
    heap = PlainHeap(tmp_path / "heap").fill()
    heap.rubbish()
    url, plan = str(tmp_path / "team"), str(tmp_path / "plan.json")
    found = run("--url", url, "import", str(heap.folder), "--plan", plan)
    assert found.code == 0
    rows = {line.split("  ")[0]: " ".join(line.split()) for line in found.out.splitlines()}
    assert "adapter publish net/support/french/paris parent ./french, proven: the weights in" in rows["./paris"]
    assert "LoRA of mlx-lm refused - missing_file" in rows["./mlx"]
    assert found.err.endswith(
        f"{plan}: 1 base model to add, 4 adapters to publish, 2 refused, 5 left where they are.\n"
    )

    again = run("--url", url, "import", str(heap.folder), "--plan", plan)
    assert (again.code, "may have been edited" in again.err) == (5, True)

    document = json.loads(Path(plan).read_text())
    assert document["help"][0].startswith("Edit action")
    for entry in document["entries"]:
        if entry["folder"] == "./legal":
            entry["action"] = "skip"
    Path(plan).write_text(json.dumps(document))
    done = run("--url", url, "import", "--apply", plan)
    assert done.code == 0
    assert done.out.splitlines() == ["net", "net/support@1", "net/support/french@1", "net/support/french/paris@1"]
    assert "./french brought in, parent net/support@1, proven\n" in done.err
    assert done.err.endswith("4 brought in, 0 there already, 0 not.\n")

    (heap.folder / "legal/new.txt").write_text("")
    Path(plan).write_text(json.dumps(document).replace('"skip"', '"publish"'))
    some = run("--url", url, "--json", "import", "--apply", plan)
    lines = [json.loads(line) for line in some.out.splitlines()]
    assert some.code == 2  # what was skipped has no name
    assert lines == []


@pytest.mark.slow
def test_what_has_changed_ends_with_a_code_of_its_own(tmp_path: Path, run: Run) -> None:
    heap = PlainHeap(tmp_path / "heap").fill()
    url, plan = str(tmp_path / "team"), str(tmp_path / "plan.json")
    assert json.loads(run("--url", url, "--json", "import", str(heap.folder), "--plan", plan).out)["source"]
    (heap.legal / "new.txt").write_text("")
    some = run("--url", url, "--json", "import", "--apply", plan)
    states = {one["folder"]: one["state"] for one in map(json.loads, some.out.splitlines())}
    assert (some.code, states["./legal"], states["./paris"]) == (9, "refused", "published")
    (heap.base.folder / "config.json").write_text("{}")
    fresh = run("--url", str(tmp_path / "fresh"), "import", "--apply", plan)
    assert fresh.code == 4
    assert "refused: ./net (changed_since): ./net is not what the plan saw: config.json has changed since." in fresh.err
    assert "blocked: ./support: its parent, the folder ./net, is not published" in fresh.err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["import", "x"], "--plan FILE to write a plan of SOURCE, or --apply FILE"),
        (["import", "--plan", "p"], "registry import SOURCE --plan FILE"),
        (["import", "x", "--apply", "p"], "--apply FILE takes no SOURCE"),
        (["import", "x", "--apply", "p", "--plan", "p"], "Give --plan FILE"),
        (["import", "x", "--plan", "nowhere/p"], "create it or choose another"),
    ],
)
def test_what_can_not_be_meant_is_told(run: Run, words: list[str], said: str) -> None:
    found = run(*words)
    assert (found.code, said in found.err) == (2, True)


@pytest.mark.long
def test_killed_while_it_is_applied_it_goes_on(tmp_path: Path) -> None:
    heap = PlainHeap(tmp_path / "heap").fill()
    for number in range(12):
        heap.run(f"more-{number}", heap.on_support, seed=100 + number)
    heap.run("on-tuned", heap.tuned("tuned"), seed=7)
    url, plan = tmp_path / "team", tmp_path / "plan.json"
    with LocalRegistry.open(url) as team:
        team.plan_import(heap.folder).write(plan)
    command = [sys.executable, "-m", "registry", "--url", str(url), "import", "--apply", str(plan)]
    counts = []
    for lines in (2, 3, 6, 11):
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=Path.cwd()) as child:
            assert child.stdout is not None
            for _ in range(lines):
                child.stdout.readline()
            time.sleep(0.01 * lines)  # somewhere in the middle of the next one
            child.send_signal(signal.SIGKILL)
        with LocalRegistry.open(url) as team:
            counts.append(len(team.search().revisions))
            team.fsck()  # raises where anything is half there
    with LocalRegistry.open(url) as team:
        outcomes = team.apply_import(plan)
        assert {one.state for one in outcomes} <= {"existing", "published"}
        assert len(team.search(all_revisions=True).revisions) == 18
        known = {"compared", "compared_untimed", "named"}  # all of this heap was written within a moment
        given = {one.path for one in team.search().revisions if one.parent_known_by not in known}
        assert given == {"net/tuned"}
    assert counts == sorted(counts)
    assert counts[0] < 16
