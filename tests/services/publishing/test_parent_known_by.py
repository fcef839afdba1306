"""How a parent is known is kept beside it, shown everywhere, taken along by copies, and may be asked for."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from registry.catalogue.tree import bases
from registry.errors import ConflictError
from registry.folders.receipts import read_receipt
from registry.operations.methods.calls import Partner
from registry.operations.registry import Registry
from registry.progress import SILENT
from registry.reference import Path as TreePath
from registry.schemas import Fitting, FolderCompared, Published
from registry.schemas.parents import Policy
from registry.schemas.transfer import GivenReceipt, PublishRequest
from registry.services.artifacts.commits import RepoNames
from registry.services.local import LocalRegistry
from registry.services.publishing.publish import InProcess
from registry.transfer.copy import copy
from tests.kit import llama_base, write_adapter
from tests.kit.acting import acting
from tests.kit.sending import prepare, request_of
from tests.kit.serving import ServedRegistry
from tests.services.publishing.parent_house import SOURCE, House, opened


@pytest.fixture(params=["in process", pytest.param("over HTTP", marks=pytest.mark.slow)])
def registry(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Registry]:
    local = opened(tmp_path)
    with closing(local if request.param == "in process" else ServedRegistry(local, tmp_path / "client")) as found:
        yield found


def _known(answer: Published) -> tuple[str, str]:
    return answer.revision.parent, answer.revision.parent_known_by


def test_every_word(registry: Registry, tmp_path: Path) -> None:
    house = House(tmp_path, registry, source=SOURCE)
    publish = registry.publish
    assert _known(publish(house.adapter("none"), "net/none")) == ("net", "assumed")
    assert _known(publish(house.adapter("under"), "net/none/under")) == ("net/none@1", "assumed")
    assert _known(publish(house.adapter("said"), "net/none/said", parent="net/none@1")) == ("net/none@1", "given")
    assert _known(publish(house.adapter("named", "acme/net"), "net/named")) == ("net", "named")
    assert _known(publish(house.adapter("other", "mirror/net"), "net/other")) == ("net", "assumed")
    registry.also_known_as("net", "mirror/net")
    assert _known(publish(house.adapter("given", "mirror/net"), "net/given")) == ("net", "named")
    assert _known(publish(house.adapter("view", "net/_"), "net/view")) == ("net", "named")
    assert _known(publish(house.adapter("folder", house.base.folder), "net/folder")) == ("net", "named")
    registry.fetch("net/support@1", tmp_path / "fetched", kind="merged")
    receipt = tmp_path / "fetched" / "registry-receipt.json"
    assert _known(publish(house.adapter("receipt"), "net/support/r", receipt=receipt)) == ("net/support@1", "receipt")
    # somebody may name it as well, and the receipt is the better reason
    both = publish(house.adapter("both", tmp_path / "fetched"), "net/support/b", parent="net/support@1")
    assert _known(both) == ("net/support@1", "receipt")
    shutil.rmtree(tmp_path / "fetched")
    gone = house.adapter("gone", tmp_path / "fetched")
    assert _known(publish(gone, "net/none/gone")) == ("net/none@1", "assumed")


def test_what_a_repo_id_says_of_the_base(registry: Registry, tmp_path: Path) -> None:
    house = House(tmp_path, registry, source=SOURCE)

    def notices(name: str, path: str) -> str:
        return " ".join(registry.publish(house.adapter("child", name), path).revision.notices)

    assert "was trained on acme/other, but net was taken from hf:acme/net@" in notices("acme/other", "net/one")
    cached = f"/home/ann/.cache/huggingface/hub/models--acme--net/snapshots/{'1' * 40}"
    assert "was trained on" not in notices("acme/net", "net/two") + notices(cached, "net/three")
    assert "publish it directly under net" in notices("acme/net", "net/one/child")
    assert registry.log("net/one/child").revisions[0].parent_known_by == "assumed"
    assert "was taken from" not in notices("./out/merged", "net/four")


def test_a_view_shows_a_revision_only_where_it_names_one(tmp_path: Path) -> None:
    with closing(opened(tmp_path)) as local:
        house = House(tmp_path, local)
        local.publish(house.adapter("only"), "net/only")
        with local.deployment.read() as session:
            names = RepoNames.of("merged", TreePath.parse("net/only"), bases.get(session, "net"))
        commit = names.meaning(local.resolve("net/only").digest) + "f" * 12
        for revision, word in (("r1", "view"), (commit, "view"), ("main", "assumed"), (None, "assumed")):
            child = house.adapter("child", "net/only", revision=revision)
            assert _known(local.publish(child, "net/only/child")) == ("net/only@1", word)


def _house_of(request: pytest.FixtureRequest, folder: Path, parents: Policy) -> Iterator[House]:
    """A tree in a registry that has a policy from now on."""
    with closing(opened(folder)) as free:
        house = House(folder, free, source=SOURCE)
        free.publish(house.support[0], "net/only")
    local = LocalRegistry.open(folder / "registry", cache_folder=folder / "cache", parents=parents)
    with closing(local if request.param == "in process" else ServedRegistry(local, folder / "client")) as found:
        house.registry = found
        yield house


@pytest.fixture(params=["in process", pytest.param("over HTTP", marks=pytest.mark.slow)])
def proven(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[House]:
    yield from _house_of(request, tmp_path, "proven")


@pytest.fixture(params=["in process", pytest.param("over HTTP", marks=pytest.mark.slow)])
def stated(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[House]:
    yield from _house_of(request, tmp_path, "stated")


def test_a_registry_that_takes_proven_parents_only(proven: House) -> None:
    for child, path in (
        (proven.adapter("none"), "net/none"),
        (proven.adapter("under"), "net/only/under"),
        (proven.adapter("name", "acme/net"), "net/only/named"),  # a name shows the base model only
        (proven.adapter("plain", "acme/net"), "net/plain"),  # where a model that was merged in memory looks the same
    ):
        problem = proven.refused(child, path)
        assert (problem.code, "REGISTRY_PARENTS=proven" in str(problem)) == ("parent_unproven", True)
    proven.registry.fetch("net", proven.folder / "fetched-base", kind="merged")  # with a receipt, which says no more
    for name in (
        proven.base.folder,
        "net/_",
        proven.folder / "fetched-base",
    ):  # whichever way the plain base model is named, and whatever agrees
        problem = proven.refused(proven.adapter("base", name), "net/base")
        assert (problem.code, "only stated (named)" in str(problem)) == ("parent_unproven", True)
    assert proven.pinned(proven.adapter("sure", "net/_"), "net/sure", parent="net") == ("net", "given")
    assert proven.pinned(proven.adapter("said"), "net/only/said", parent="net/only@1") == ("net/only@1", "given")
    merged = proven.merged("merged", proven.support[:1])
    assert proven.pinned(proven.adapter("seen", merged), "net/only/seen") == ("net/only@1", "compared")
    proven.registry.fetch("net/only", proven.folder / "fetched", kind="merged")
    child = proven.adapter("receipt", proven.folder / "fetched")
    assert proven.pinned(child, "net/only/receipt") == ("net/only@1", "receipt")


def test_a_registry_that_takes_stated_parents_too(stated: House) -> None:
    """The commonest adapter is trained on the plain base model, by its name."""
    for child, path in ((stated.adapter("none"), "net/none"), (stated.adapter("under"), "net/only/under")):
        problem = stated.refused(child, path)
        assert (problem.code, "proven or stated (REGISTRY_PARENTS=stated)" in str(problem)) == ("parent_unproven", True)
    assert stated.pinned(stated.adapter("named", "acme/net"), "net/named") == ("net", "named")
    assert stated.pinned(stated.adapter("said"), "net/only/said", parent="net/only@1") == ("net/only@1", "given")
    merged = stated.merged("merged", stated.support[:1])
    assert stated.pinned(stated.adapter("seen", merged), "net/only/seen") == ("net/only@1", "compared")


@pytest.mark.slow
def test_copies_take_the_word_along(tmp_path: Path) -> None:
    with closing(opened(tmp_path)) as local:
        house = House(tmp_path, local)
        local.publish(house.adapter("seen", house.merged("merged", house.support[:1])), "net/support/seen")
        with closing(ServedRegistry(opened(tmp_path / "other"), tmp_path / "client")) as other:
            copy(local, "net", other, recursive=True, progress=SILENT)
            for path in ("net/support", "net/support/shop", "net/support/seen"):
                assert _parents(other, path) == _parents(local, path)
            assert _parents(other, "net/support/seen") == {"net/support/seen@1": ("net/support@1", "compared")}
        strict = LocalRegistry.open(tmp_path / "strict", cache_folder=tmp_path / "cache", parents="proven")
        with closing(strict), pytest.raises(ConflictError, match="REGISTRY_PARENTS=proven"):
            copy(local, "net/support@1", strict, recursive=False, progress=SILENT)


def _parents(registry: Registry, path: str) -> dict[str, tuple[str, str]]:
    """The parent of each revision, and how it is known."""
    return {one.reference: (one.parent, one.parent_known_by) for one in registry.log(path).revisions}


def test_a_folder_of_folders_gives_nobody_a_parent(registry: Registry, tmp_path: Path) -> None:
    house = House(tmp_path, registry)
    heap = tmp_path / "heap"
    shutil.copytree(house.adapter("one", seed=21), heap / "one")
    shutil.copytree(house.adapter("two", seed=22), heap / "one" / "two")
    answers = registry.publish_tree(heap, "net")
    assert [_known(answer) for answer in answers] == [("net", "assumed"), ("net/one@1", "assumed")]
    assert "it stands for the folder above" in answers[1].parent_reason


def test_what_a_client_says_that_it_compared_is_its_word_and_no_more(registry: Registry, tmp_path: Path) -> None:
    """It shows a revision of the path's parent, and nothing that the path does not admit."""
    house = House(tmp_path, registry)
    made = request_of(house.adapter("child"), "net/support/child")
    digests = {one.reference: one.digest for one in registry.log("net/support").revisions}

    def send(**said: Any) -> Published:
        asked = made.with_request(compared=FolderCompared(words="./merged", **said))
        assert isinstance(registry, Partner)
        return registry.commit_publish(prepare(registry, asked))  # type: ignore[arg-type]

    one = "net/support@1"
    fits = (Fitting(reference=one, digest=digests[one]),)
    assert _known(send(fitting=fits)) == (one, "sampled")  # an older client says nothing of times, nor how it compared
    rule: dict[str, Any] = {"rule": 1, "whole": True, "equal": 1.0}
    assert _known(send(fitting=fits, times="older", **rule)) == (one, "sampled")  # the word that it has stays
    made = request_of(house.adapter("other", seed=4), "net/support/other")
    assert _known(send(fitting=fits, times="older", **rule)) == (one, "compared")
    for fitting in (
        (Fitting(reference=one, digest="sha256:" + "0" * 64),),
        (Fitting(reference="net/support/shop@1", digest=registry.resolve("net/support/shop").digest),),
        (Fitting(reference="net", digest=registry.resolve("net").digest),),
    ):
        with pytest.raises(ConflictError) as refused:
            send(fitting=fitting)
        assert refused.value.code == "parent_mismatch"
    with pytest.raises(ConflictError) as refused:
        send(nearest="net/support@2", distance=0.05, tensor="a.weight", newer=True)
    assert refused.value.code == "parent_unproven"
    assert "net/support@2 is the closest, 5 % of its norm away" in str(refused.value)


def test_requests_say_only_what_is_used() -> None:
    """Older services refuse fields that they don't know."""
    request = PublishRequest(path="net/x", config=b"{}", header=b"", files=())
    text = request.model_dump_json(exclude_defaults=True)
    assert "compared" not in text
    assert "skip_parent_check" not in text
    assert "nested" not in text


@pytest.mark.parametrize(("changed", "word"), [("embed_tokens", "file"), ("q_proj", "assumed")])
def test_whole_weights_that_an_adapter_keeps_can_show_its_parent(tmp_path: Path, changed: str, word: str) -> None:
    """They do where the parent changed them: else those of the base are the same."""
    with closing(opened(tmp_path)) as local:
        base = llama_base(tmp_path / "base")
        local.add_base("llama", base.folder)
        parent = write_adapter(tmp_path / "parent", base, [changed], r=2)
        local.publish(parent, "llama/one")
        child = write_adapter(tmp_path / "child", base, ["embed_tokens", "q_proj"], r=2, copies=[parent], seed=5)
        assert _known(local.publish(child, "llama/one/child")) == ("llama/one@1", word)


def test_above_a_scope_a_receipt_makes_its_revision_a_candidate_and_no_other(tmp_path: Path) -> None:
    """Who trained on a folder may compare with what it was made of, though the token does not see that revision."""
    with closing(opened(tmp_path)) as local:
        House(tmp_path, local, source=SOURCE)
        local.fetch("net/support@1", tmp_path / "fetched", kind="merged")
        given = GivenReceipt(receipt=read_receipt(tmp_path / "fetched" / "registry-receipt.json"), words="the receipt")
        where = InProcess(acting(local, "writer", "net/support/deep").deployment)
        path = TreePath.parse("net/support/deep")
        assert [one.reference for one in where.published(path, None)] == ["net"]
        assert [one.reference for one in where.published(path, given)] == ["net", "net/support@1"]
