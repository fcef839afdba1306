"""The parent of what is pushed: proven, loaded by this token, or asked for in words that a client's user can use."""

from __future__ import annotations

from pathlib import Path

import pytest
from huggingface_hub.errors import HfHubHTTPError

from registry.app import service_app
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
    assert pushing.registry.deployment.uses is not None
    pushing.registry.deployment.uses.write()  # a service writes them every few seconds, for its replicas
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
