"""A heap of strangers' folders through the command line: each is published exactly, or refused with a true reason."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from registry.cli.exit_codes import exit_code
from registry.errors import ConflictError, RegistryError
from registry.folders.scan import ANOTHER_ADAPTER
from registry.schemas import FolderOutcome, LeftOut
from registry.services.local import LocalRegistry
from tests.kit.heap import VERDICTS, WEIGHTS, Heap, make_heap
from tests.kit.peers import load_model, logits, peft_merge
from tests.kit.tensor_files import read_tensors

pytestmark = pytest.mark.slow  # tests/transfer/test_publish_folders.py has such folders one by one
Run = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="module")
def heap(tmp_path_factory: pytest.TempPathFactory) -> Heap:
    return make_heap(tmp_path_factory.mktemp("heap"))


@pytest.fixture(scope="module")
def empty(heap: Heap, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalRegistry]:
    """A registry with the base model alone; tests that publish take a new one."""
    opened = LocalRegistry.open(tmp_path_factory.mktemp("empty") / "registry")
    opened.add_base("llama", heap.base.folder)
    yield opened
    opened.close()


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Run:
    from registry.cli.program import run as run_command_line

    monkeypatch.setenv("REGISTRY_URL", str(tmp_path / "registry"))
    monkeypatch.setenv("REGISTRY_CACHE_DIR", str(tmp_path / "cache"))

    def call(*args: str) -> tuple[int, str, str]:
        code = run_command_line(args)
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return call


def verdict_of(outcome: FolderOutcome) -> tuple[str, str | None]:
    return ("published" if outcome.state == "planned" else outcome.state), outcome.code


@pytest.mark.long
def test_the_whole_heap(heap: Heap, run: Run, tmp_path: Path) -> None:
    folder = str(heap.folder)
    assert run("base", "add", "llama", str(heap.base.folder))[0] == 0
    expected = {place: (verdict.state, verdict.code) for place, verdict in VERDICTS.items()}
    dry, lines, said = run("publish", "-r", folder, "llama", "--dry-run", "--keep-going", "--json")
    planned = [FolderOutcome.model_validate_json(line) for line in lines.splitlines()]
    assert (dry, said) == (9, "")
    assert {one.folder: verdict_of(one) for one in planned if one.state != "skipped"} == expected
    assert run("search")[1] == ""
    # without --keep-going, one bad folder is enough
    bad, out, said = run("publish", "-r", folder, "llama", "--json")
    assert (bad, out) == (4, "")
    assert "another-base: " in json.loads(said)["message"]
    assert run("search")[1] == ""

    ended, lines, said = run("publish", "-r", folder, "llama", "--keep-going", "--json")
    outcomes = {one.folder: one for one in map(FolderOutcome.model_validate_json, lines.splitlines())}
    assert (ended, said) == (9, "")
    assert {place: verdict_of(one) for place, one in outcomes.items() if one.state != "skipped"} == expected
    assert {place for place, one in outcomes.items() if one.state == "skipped"} == {
        f"{place}/checkpoint-{step}" for place in ("trainer", "trl") for step in (1, 2)
    }
    digests = {one.folder: one.preview.digest for one in planned if one.preview}
    for place, verdict in VERDICTS.items():
        answer = outcomes[place].published
        if answer is None:
            continue
        assert answer.revision.digest == digests[place]
        assert {left.path for left in answer.left_out} == verdict.left_out
        assert answer.revision.parent_known_by == verdict.known_by, place
        notices = " ".join(answer.revision.notices)
        assert verdict.notice in notices if verdict.notice else not notices
    known = {place: outcomes[place].published for place in VERDICTS}
    with_receipt, without = known["rslora/with-receipt"], known["rslora/without-receipt"]
    assert with_receipt is not None
    assert without is not None
    assert with_receipt.parent_reason.startswith("the receipt in ")
    assert with_receipt.revision.parent == without.revision.parent == "llama/rslora@1"
    _check_weights(heap, tmp_path)


def _check_weights(heap: Heap, tmp_path: Path) -> None:
    """What was published is what PEFT makes of the folders."""
    with closing(LocalRegistry.open(tmp_path / "registry", cache_folder=tmp_path / "cache")) as opened:
        for place, verdict in VERDICTS.items():
            if verdict.state != "published":
                continue
            parts = place.split("/")
            folders = [heap.folder.joinpath(*parts[:count]) for count in range(1, len(parts) + 1)]
            merged = opened.fetch(f"llama/{place}", tmp_path / "out" / place, kind="merged").folder
            expected = logits(peft_merge(heap.base.folder, folders))
            found = logits(load_model(Path(merged)))
            assert (found - expected).abs().max() <= 1e-5 * expected.abs().max(), place


def test_a_folder_that_is_refused_in_a_heap_is_refused_alone(heap: Heap, empty: LocalRegistry) -> None:
    for place, verdict in VERDICTS.items():
        if verdict.state != "refused":
            continue
        with pytest.raises(RegistryError) as refused:
            empty.publish(heap.folder / place, "llama/alone")
        assert refused.value.code == verdict.code, place
        assert exit_code(refused.value) == 4
        with pytest.raises(RegistryError) as previewed:
            empty.preview(heap.folder / place, "llama/alone")
        assert (str(previewed.value), previewed.value.code) == (str(refused.value), refused.value.code)


def test_the_heap_is_what_it_says(heap: Heap) -> None:
    def names(place: str) -> set[str]:
        return set(read_tensors(heap.folder / place / WEIGHTS))

    copies = {f"base_model.model.{module}.base_layer.weight" for module in ("model.embed_tokens", "lm_head")}
    assert names("embeddings-with-copies") - names("embeddings-and-head") == copies
    for place in ("trainer/checkpoint-2", "only-checkpoints/checkpoint-2", "two/first"):
        assert (heap.folder / place / "adapter_config.json").is_file()


def test_a_folder_in_another_place_of_the_tree_is_refused(heap: Heap, tmp_path: Path) -> None:
    """Trained on a merged folder and put under the base, trained on the base and put under an adapter, by all faces."""
    with closing(LocalRegistry.open(tmp_path / "registry", cache_folder=tmp_path / "cache")) as opened:
        opened.add_base("llama", heap.base.folder)
        opened.publish(heap.folder / "rslora", "llama/rslora")
        for place, path in (
            ("rslora/without-receipt", "llama/x"),
            ("rslora/with-receipt", "llama/x"),
            ("on-the-base", "llama/rslora/x"),
            ("trainer", "llama/rslora/x"),
        ):
            for call in (opened.preview, opened.publish):
                with pytest.raises(ConflictError) as refused:
                    call(heap.folder / place, path)
                assert refused.value.code in ("parent_mismatch", "parent_unproven"), place
        nested = tmp_path / "nested"
        shutil.copytree(heap.folder / "rslora", nested / "rslora", ignore=shutil.ignore_patterns("with*"))
        shutil.copytree(heap.folder / "on-the-base", nested / "rslora/on-the-base")
        outcomes = opened.publish_folders(nested, "llama", dry_run=True)
        assert [(one.folder, one.state, one.code) for one in outcomes] == [
            ("rslora", "existing", None),
            ("rslora/on-the-base", "refused", "parent_mismatch"),
        ]
        assert [revision.path for revision in opened.search().revisions] == ["llama/rslora"]


def test_what_lies_below_is_left_out_of_one_publish(heap: Heap, empty: LocalRegistry) -> None:
    left_out = empty.preview(heap.folder / "rslora", "llama/alone").left_out
    assert left_out == tuple(LeftOut(path=path, reason=ANOTHER_ADAPTER) for path in ("with-receipt", "without-receipt"))
