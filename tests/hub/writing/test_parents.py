"""The parent of what is pushed: proven, loaded by this token, or asked for in words that a client's user can use."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack, closing
from dataclasses import replace
from pathlib import Path

import pytest
from huggingface_hub import hf_hub_download
from huggingface_hub.errors import HfHubHTTPError

from registry.app import service_app
from registry.errors import UnavailableError
from registry.services.local import LocalRegistry
from tests.hub.writing.conftest import Pushing, repo_of
from tests.kit.library import running


@pytest.fixture
def two(pushing: Pushing) -> str:
    """A path with two revisions, which nobody has loaded."""
    path = pushing.name()
    for _ in range(2):
        pushing.registry.publish(pushing.adapter(), path)
    return path


def load(pushing: Pushing, path: str, revision: str, who: str = "writer") -> None:
    api = pushing.api(who)
    api.hf_hub_download(repo_of(path), "model.safetensors", revision=revision, force_download=True)


def push(pushing: Pushing, path: str, folder: Path, description: str | None = None) -> None:
    pushing.api().upload_folder(repo_id=repo_of(path), folder_path=folder, commit_description=description)


@pytest.mark.parametrize("number", [1, 2])
def test_the_only_revision_that_was_loaded_is_taken_and_told(pushing: Pushing, two: str, number: int) -> None:
    load(pushing, two, f"r{number}")
    push(pushing, f"{two}/child", pushing.adapter(base_model_name_or_path=repo_of(two)))
    (revision,) = pushing.revisions(f"{two}/child")
    assert (revision.parent, revision.parent_known_by) == (f"{two}@{number}", "loaded")


def test_of_two_that_were_loaded_none_is_taken(pushing: Pushing, two: str) -> None:
    load(pushing, two, "r1")
    load(pushing, two, "r2")
    child = pushing.adapter(base_model_name_or_path=repo_of(two))
    with pytest.raises(HfHubHTTPError, match=r"'Parent: PATH@N'.*revision='rN'") as caught:
        push(pushing, f"{two}/child", child)
    assert caught.value.response.status_code == 422
    assert not pushing.revisions(f"{two}/child")
    push(pushing, f"{two}/child", child, description=f"Some words.\nParent: {two}@2\n")
    (revision,) = pushing.revisions(f"{two}/child")
    assert (revision.parent, revision.parent_known_by) == (f"{two}@2", "given")
    assert "Parent:" not in revision.message
    assert "Some words." in revision.message


def tell(pushing: Pushing, path: str, revision: str) -> None:
    """As transformers 5 asks of what its cache has: for the commit, and nothing else."""
    pushing.api().model_info(repo_of(path), revision=revision)


def head(pushing: Pushing, path: str, revision: str) -> None:
    """As huggingface_hub asks for a file that its cache has."""
    hf_hub_download(
        repo_of(path),
        "model.safetensors",
        revision=revision,
        endpoint=f"{pushing.address}/hf",
        token=pushing.secrets["writer"],
    )


def configure(pushing: Pushing, path: str, revision: str) -> None:
    """As transformers 4 asks of what its cache has: for the configuration, whose commit the weights are taken of."""
    pushing.api().hf_hub_download(repo_of(path), "config.json", revision=revision)


def fill_cache(pushing: Pushing, path: str) -> None:
    """Another token loads the newest revision into the cache that both share."""
    pushing.api("reader").snapshot_download(repo_of(path), revision="main")


@pytest.mark.parametrize("train", [head, tell, configure], ids=["head of weights", "commit alone", "configuration"])
def test_what_comes_from_a_cache_that_another_token_filled_is_in_doubt(
    pushing: Pushing, two: str, train: Callable[[Pushing, str, str], None]
) -> None:
    """This token loaded r1 once; then it trains on r2, whose weights are never asked for by it, and pushes at once."""
    load(pushing, two, "r1")
    fill_cache(pushing, two)
    train(pushing, two, "main")
    child = pushing.adapter(base_model_name_or_path=repo_of(two))
    with pytest.raises(HfHubHTTPError, match=rf"{two}@1.*{two}@2.*'Parent: PATH@N'") as caught:
        push(pushing, f"{two}/child", child)
    assert caught.value.response.status_code == 422
    assert not pushing.revisions(f"{two}/child")


def test_what_one_worker_has_heard_of_others_know_at_once(pushing: Pushing, two: str) -> None:
    """One worker hears of each revision, and a third one of the push, within the seconds in which uses are written."""
    with ExitStack() as opened:
        workers = []
        for _ in range(3):
            registry = opened.enter_context(closing(LocalRegistry.open(Path(pushing.registry.url))))
            address = opened.enter_context(running(service_app(registry)))
            workers.append(replace(pushing, address=address))
        load(workers[0], two, "r1")
        tell(workers[1], two, "r2")
        child = pushing.adapter(base_model_name_or_path=repo_of(two))
        with pytest.raises(HfHubHTTPError, match=rf"has loaded {two}@1 and was told that its name means {two}@2"):
            push(workers[2], f"{two}/child", child)


def test_what_a_token_was_only_told_of_is_not_taken(pushing: Pushing, two: str) -> None:
    tell(pushing, two, "r2")
    with pytest.raises(HfHubHTTPError, match="parent_ambiguous"):
        push(pushing, f"{two}/child", pushing.adapter(base_model_name_or_path=repo_of(two)))


def test_a_head_of_weights_is_a_load_and_a_header_is_none(pushing: Pushing, two: str) -> None:
    fill_cache(pushing, two)
    head(pushing, two, "main")
    address = f"{repo_of(two)}/resolve/r1/model.safetensors"
    for range_ in ("bytes=0-7", "bytes=0-100000"):
        with pushing.client() as client:
            assert client.get(f"/{address}", headers={"Range": range_}, follow_redirects=True).status_code == 206
    push(pushing, f"{two}/child", pushing.adapter(base_model_name_or_path=repo_of(two)))
    (revision,) = pushing.revisions(f"{two}/child")
    assert (revision.parent, revision.parent_known_by) == (f"{two}@2", "loaded")


def test_heads_change_no_figures_of_use(pushing: Pushing, two: str) -> None:
    fill_cache(pushing, two)
    log = pushing.registry.deployment.uses
    assert log is not None

    def uses() -> list[int]:
        log.write()
        return [shown.uses for number in (1, 2) if (shown := pushing.registry.show(f"{two}@{number}").use)]

    before = uses()
    for _ in range(2):
        head(pushing, two, "main")
    assert uses() == before


def test_where_a_load_can_not_be_recorded_it_goes_on_and_the_push_says_so(
    pushing: Pushing, two: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def read_only(*_: object) -> None:
        raise UnavailableError("The database is read-only.")

    load(pushing, two, "r1")
    with monkeypatch.context() as patch:
        patch.setattr("registry.catalogue.changes.details.count_loads", read_only)
        load(pushing, two, "r1", who="reader")  # of another token: not this one's doubt
        tell(pushing, f"{two.rpartition('/')[0]}", "r1")
        push(pushing, f"{two}/first", pushing.adapter(base_model_name_or_path=repo_of(two)))
        pushing.registry.publish(pushing.adapter(), two)
        tell(pushing, two, "r1")  # what is not recorded is known to this process alone
        push(pushing, f"{two}/second", pushing.adapter(base_model_name_or_path=repo_of(two)))
        load(pushing, two, "r3")
        with pytest.raises(HfHubHTTPError, match="parent_ambiguous"):
            push(pushing, f"{two}/third", pushing.adapter(base_model_name_or_path=repo_of(two)))
    known = [pushing.revisions(f"{two}/{name}")[0].parent_known_by for name in ("first", "second")]
    assert known == ["loaded", "assumed"]


def test_what_another_token_has_loaded_says_nothing(pushing: Pushing, two: str) -> None:
    load(pushing, two, "r1", who="reader")
    with pytest.raises(HfHubHTTPError, match="parent_ambiguous"):
        push(pushing, f"{two}/child", pushing.adapter(base_model_name_or_path=repo_of(two)))


def test_what_the_configuration_says_counts_more_than_what_was_loaded(pushing: Pushing, two: str) -> None:
    load(pushing, two, "r1")
    push(pushing, f"{two}/child", pushing.adapter(base_model_name_or_path=repo_of(two), revision="r2"))
    (revision,) = pushing.revisions(f"{two}/child")
    assert (revision.parent, revision.parent_known_by) == (f"{two}@2", "view")


def test_a_folder_of_some_machine_is_not_what_was_loaded(pushing: Pushing, two: str) -> None:
    load(pushing, two, "r1")
    with pytest.raises(HfHubHTTPError, match="parent_ambiguous"):
        push(pushing, f"{two}/child", pushing.adapter(base_model_name_or_path="/somewhere/model"))


def test_where_parents_have_to_be_proven_a_load_is_no_proof(pushing: Pushing, two: str) -> None:
    load(pushing, two, "r1")
    strict = LocalRegistry.open(Path(pushing.registry.url), parents="proven")
    with running(service_app(strict)) as address:
        there = Pushing(pushing.registry, pushing.base, address, pushing.secrets, pushing.root, pushing._numbers)
        with pytest.raises(HfHubHTTPError, match="parent_unproven"):
            push(there, f"{two}/child", pushing.adapter(base_model_name_or_path=repo_of(two)))
        push(there, f"{two}/child", pushing.adapter(base_model_name_or_path=repo_of(two), revision="r1"))
    strict.close()
    (revision,) = pushing.revisions(f"{two}/child")
    assert revision.parent_known_by == "view"


def test_the_same_again_needs_no_parent(pushing: Pushing, two: str) -> None:
    """A trainer that pushes again after the parent has got another revision is not asked which one it was."""
    path, folder = f"{two}/child", pushing.adapter(base_model_name_or_path=repo_of(two))
    push(pushing, path, folder, description=f"Parent: {two}@1")
    push(pushing, path, folder)
    assert [one.parent for one in pushing.revisions(path)] == [f"{two}@1"]
    push(pushing, path, folder, description=f"Parent: {two}@2")
    assert [one.parent for one in pushing.revisions(path)] == [f"{two}@1", f"{two}@2"]


def test_the_same_again_is_any_revision_of_these_files(pushing: Pushing, two: str) -> None:
    """Each was pushed with another README.md: the one on the parent that is named is found, however many are newer."""
    path, folder = f"{two}/child", pushing.adapter(base_model_name_or_path=repo_of(two))
    for number in (1, 2):
        (folder / "README.md").write_text(f"Trained on revision {number}.\n")
        push(pushing, path, folder, description=f"Parent: {two}@{number}")
    (folder / "README.md").unlink()
    for number in (1, 2):
        push(pushing, path, folder, description=f"Parent: {two}@{number}")
    assert [one.parent for one in pushing.revisions(path)] == [f"{two}@1", f"{two}@2"]
