"""A push becomes a revision, whatever the order and the number of its commits, and never half of one."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import pytest
from huggingface_hub import CommitOperationAdd, HfApi
from huggingface_hub.errors import HfHubHTTPError

from registry.schemas.protocol import VIEWS
from registry.services.pushing import push as taking
from tests.hub.writing.conftest import PAIR, Pushing, repo_of


@pytest.mark.parametrize("view", VIEWS)
def test_a_folder_becomes_one_revision_and_comes_back_by_its_commit(
    pushing: Pushing, tmp_path: Path, view: str
) -> None:
    path, folder = pushing.name(), pushing.adapter()
    (folder / "optimizer.pt").write_bytes(b"x" * 100)
    (folder / "checkpoint-5").mkdir()
    (folder / "checkpoint-5" / "adapter_model.safetensors").write_bytes(b"y")
    api, repo = pushing.api(view=view), repo_of(path)
    api.create_repo(repo, exist_ok=True)
    made = api.upload_folder(repo_id=repo, folder_path=folder, commit_message="End of training")
    (revision,) = pushing.revisions(path)
    assert (revision.message, revision.parent, revision.author) == ("End of training", "tiny/a@1", "writer")
    assert pushing.files(f"{path}@1", tmp_path / "out") == {name: (folder / name).read_bytes() for name in PAIR}
    assert api.model_info(repo).sha == made.oid
    assert api.model_info(repo, revision=made.oid).sha == made.oid
    assert made.commit_url == f"{pushing.address}/{view}/models/{repo}/commit/{made.oid}"


def test_a_commit_proves_the_parent_of_the_next_adapter(pushing: Pushing) -> None:
    path, api = pushing.name(), pushing.api()
    first = api.upload_folder(repo_id=repo_of(path), folder_path=pushing.adapter())
    api.upload_folder(repo_id=repo_of(path), folder_path=pushing.adapter())
    child = pushing.adapter(base_model_name_or_path=repo_of(path), revision=first.oid)
    api.upload_folder(repo_id=f"{repo_of(path)}.child", folder_path=child)
    (revision,) = pushing.revisions(f"{path}/child")
    assert (revision.parent, revision.parent_known_by) == (f"{path}@1", "view")


def test_the_same_again_is_the_same_revision(pushing: Pushing) -> None:
    path, folder, api = pushing.name(), pushing.adapter(), pushing.api()
    first = api.upload_folder(repo_id=repo_of(path), folder_path=folder)
    api.upload_folder(repo_id=repo_of(path), folder_path=pushing.adapter())
    (folder / "README.md").write_text("---\nlicense: mit\n---\nMore is said at the end.\n")
    again = api.upload_folder(repo_id=repo_of(path), folder_path=folder, commit_message="End of training")
    assert again.oid == first.oid
    assert [one.number for one in pushing.revisions(path)] == [1, 2]
    assert "More is said" in pushing.registry.card(path).text


HALVES = [*itertools.permutations([*PAIR, "README.md"])]


@pytest.mark.parametrize("order", HALVES, ids=["-".join(name[:9] for name in one) for one in HALVES])
def test_files_that_come_one_by_one_are_one_revision(pushing: Pushing, order: tuple[str, ...]) -> None:
    path, folder, api = pushing.name(), pushing.adapter(), pushing.api()
    (folder / "README.md").write_text("A card.\n")
    repo = repo_of(path)
    for count, name in enumerate(order, 1):
        made = api.upload_file(repo_id=repo, path_or_fileobj=folder / name, path_in_repo=name)
        complete = set(PAIR) <= set(order[:count])
        assert len(pushing.revisions(path)) == int(complete)
        assert api.model_info(repo).sha == made.oid
        if not complete:
            assert not api.file_exists(repo, "adapter_config.json")
            assert api.list_repo_files(repo) == []
    assert pushing.registry.card(path).text == "A card.\n"


def test_a_half_is_not_completed_by_an_older_revision(pushing: Pushing) -> None:
    """Its weights were trained with another configuration than the one that is there."""
    path, api = pushing.name(), pushing.api()
    api.upload_folder(repo_id=repo_of(path), folder_path=pushing.adapter())
    changed = pushing.adapter(lora_alpha=64)
    api.upload_file(repo_id=repo_of(path), path_or_fileobj=changed / PAIR[0], path_in_repo=PAIR[0])
    assert len(pushing.revisions(path)) == 1
    api.upload_file(repo_id=repo_of(path), path_or_fileobj=changed / PAIR[1], path_in_repo=PAIR[1])
    assert len(pushing.revisions(path)) == 2


def test_a_half_of_a_push_that_was_given_up_is_not_mixed_into_the_next_one(pushing: Pushing, tmp_path: Path) -> None:
    path, api = pushing.name(), pushing.api()
    given_up, whole = pushing.adapter(), pushing.adapter(lora_alpha=64)
    api.upload_file(repo_id=repo_of(path), path_or_fileobj=given_up / PAIR[1], path_in_repo=PAIR[1])
    names = [{"path": name, "size": (whole / name).stat().st_size} for name in PAIR]
    with pushing.client() as client:  # what a client asks before it splits a folder into two commits
        assert client.post(f"/api/models/{repo_of(path)}/preupload/main", json={"files": names}).status_code == 200
    api.upload_file(repo_id=repo_of(path), path_or_fileobj=whole / PAIR[0], path_in_repo=PAIR[0])
    assert not pushing.revisions(path)
    api.upload_file(repo_id=repo_of(path), path_or_fileobj=whole / PAIR[1], path_in_repo=PAIR[1])
    assert pushing.files(f"{path}@1", tmp_path / "out") == {name: (whole / name).read_bytes() for name in PAIR}


def test_halves_of_two_tokens_are_not_put_together(pushing: Pushing) -> None:
    path, folder = pushing.name(), pushing.adapter()
    for who, name in zip(("writer", "writer of a"), PAIR, strict=True):
        pushing.api(who).upload_file(repo_id=repo_of(path), path_or_fileobj=folder / name, path_in_repo=name)
    assert not pushing.revisions(path)
    assert not pushing.api("reader").repo_exists(repo_of(path))


def test_what_waits_of_a_token_is_bounded(pushing: Pushing, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = pushing.adapter()
    secret = pushing.registry.create_token("writer", name="bounded").secret
    api = HfApi(endpoint=f"{pushing.address}/hf", token=secret)
    monkeypatch.setattr(taking, "MOST_WAITING", 2 * (folder / PAIR[1]).stat().st_size)
    paths = [pushing.name() for _ in range(3)]

    def half(path: str) -> None:
        api.upload_file(repo_id=repo_of(path), path_or_fileobj=folder / PAIR[1], path_in_repo=PAIR[1])

    half(paths[0])
    half(paths[1])
    with pytest.raises(HfHubHTTPError, match="in one commit") as caught:
        half(paths[2])
    assert caught.value.response.status_code == 413
    api.upload_folder(repo_id=repo_of(paths[0]), folder_path=folder)  # which takes one away
    half(paths[2])


def test_what_is_pushed_after_a_retraction_is_published(pushing: Pushing) -> None:
    path, api = pushing.name(), pushing.api()
    first = api.upload_folder(repo_id=repo_of(path), folder_path=pushing.adapter())
    pushing.registry.retract(f"{path}@1", reason="trained on the test set")
    told = api.create_commit(repo_of(path), [CommitOperationAdd("README.md", b"Gone.")], commit_message="card")
    assert told.oid == first.oid
    second = api.upload_folder(repo_id=repo_of(path), folder_path=pushing.adapter())
    assert api.model_info(repo_of(path)).sha == second.oid


def test_a_repo_that_was_created_is_there_for_who_created_it(pushing: Pushing) -> None:
    path, api = pushing.name(), pushing.api()
    repo = repo_of(path)
    assert not api.repo_exists(repo)
    assert api.create_repo(repo).repo_id == repo
    with pytest.raises(HfHubHTTPError, match="exists already"):
        api.create_repo(repo)
    assert api.repo_exists(repo)
    assert not api.file_exists(repo, "README.md")
    assert not pushing.revisions(path)
    assert not pushing.api("writer of a").repo_exists(repo)


def test_metrics_and_cards_are_said_about_the_newest_revision(pushing: Pushing) -> None:
    path, folder, api = pushing.name(), pushing.adapter(), pushing.api()
    state = {"log_history": [{"step": 3, "eval_loss": 0.5}], "global_step": 3}
    (folder / "trainer_state.json").write_text(json.dumps(state))
    api.upload_folder(repo_id=repo_of(path), folder_path=folder)
    (revision,) = pushing.revisions(path)
    assert revision.metrics == {"eval_loss": 0.5}
    assert revision.annotations == {"step": "3"}
    card = "---\nmodel-index:\n- results:\n  - metrics:\n    - {type: accuracy, value: 0.75}\n---\nText.\n"
    operation = CommitOperationAdd("README.md", card.encode())
    api.create_commit(repo_of(path), [operation], commit_message="card")
    (revision,) = pushing.revisions(path)
    assert revision.metrics == {"eval_loss": 0.5, "accuracy": 0.75}
    assert pushing.registry.card(path).text == card


def test_a_card_that_somebody_has_edited_stays(pushing: Pushing) -> None:
    path, api = pushing.name(), pushing.api()
    api.upload_folder(repo_id=repo_of(path), folder_path=pushing.adapter())
    pushing.registry.set_card(path, "By hand.\n")
    api.create_commit(repo_of(path), [CommitOperationAdd("README.md", b"By a trainer.\n")], commit_message="card")
    assert pushing.registry.card(path).text == "By hand.\n"


def test_tags(pushing: Pushing) -> None:
    path, api = pushing.name(), pushing.api()
    first = api.upload_folder(repo_id=repo_of(path), folder_path=pushing.adapter())
    api.upload_folder(repo_id=repo_of(path), folder_path=pushing.adapter())
    api.create_tag(repo_of(path), tag="best", revision=first.oid)
    api.create_tag(repo_of(path), tag="best", revision=first.oid, exist_ok=True)
    assert pushing.revisions(path)[0].tags == ("best",)
    with pytest.raises(HfHubHTTPError, match="exists already"):
        api.create_tag(repo_of(path), tag="best")
    api.delete_tag(repo_of(path), tag="best")
    assert pushing.revisions(path)[0].tags == ()


def test_what_was_left_out_is_told_once(pushing: Pushing, caplog: pytest.LogCaptureFixture) -> None:
    folder = pushing.adapter()
    (folder / "rng_state.pth").write_bytes(b"x")
    with caplog.at_level("WARNING"):
        pushing.api().upload_folder(repo_id=repo_of(pushing.name()), folder_path=folder)
    told = [record.getMessage() for record in caplog.records]
    assert sum("rng_state.pth is not kept" in line for line in told) == 1
    assert sum("Published as tiny/a/" in line and "on tiny/a@1" in line for line in told) == 1


def test_roles_are_told_at_login(pushing: Pushing) -> None:
    for who, role in (("reader", "read"), ("writer", "write")):
        told = HfApi(endpoint=f"{pushing.address}/hf", token=pushing.secrets[who]).whoami()
        assert told["auth"]["accessToken"]["role"] == role
