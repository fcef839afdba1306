"""Renaming as its users see it, in process and over HTTP: weights, parents, rights, notices, copies of everything."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import httpx
import numpy as np
import pytest

from registry.errors import ConflictError, NotAllowedError, NotFoundError, RetractedError, UsageError
from registry.operations.registry import Registry
from registry.rights import Role
from registry.services.local import LocalRegistry
from tests.kit import Base, add_tokenizer, plain_base, read_model, write_adapter
from tests.kit.acting import acting
from tests.kit.registries import ON_HTTP, ON_TEAM_AT_LENGTH, opened
from tests.kit.serving import served

EMBEDDED = pytest.mark.parametrize("registry", ["embedded"], indirect=True)
pytestmark = pytest.mark.long_on("http")
SHAPES = {"a.weight": (24, 16), "b.weight": (16, 24)}


@pytest.fixture(params=["embedded", ON_HTTP, ON_TEAM_AT_LENGTH])
def registry(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Registry]:
    with opened(request, tmp_path) as kept:
        yield kept


@pytest.fixture
def base(registry: Registry, tmp_path: Path) -> Base:
    """In the registry as net, with net/one@1, net/one@2, and net/one/two@1 on net/one@1."""
    made = plain_base(tmp_path / "base", SHAPES)
    add_tokenizer(made.folder)
    registry.add_base("net", made.folder)
    registry.publish(adapter(tmp_path, made, 1), "net/one", metrics={"acc": 0.5}, tags=["old"])
    registry.publish(adapter(tmp_path, made, 2), "net/one/two", annotations={"owner": "ann"})
    registry.publish(adapter(tmp_path, made, 3), "net/one", tags=["prod"])
    return made


def adapter(folder: Path, base: Base, seed: int, trained_on: str | None = None, revision: str | None = None) -> Path:
    config = {"base_model_name_or_path": trained_on, "revision": revision}
    return write_adapter(folder / f"adapter{seed}", base, ["a", "b"], r=2, seed=seed, config=config)


def weights(registry: Registry, ref: str) -> dict[str, np.ndarray]:
    with registry.artifact(ref, kind="merged") as artifact:
        return {name: tensor.float().numpy() for name, tensor in artifact.tensors()}


def test_weights_are_the_same_under_both_names(registry: Registry, base: Base, tmp_path: Path) -> None:
    before = registry.fetch("net/one/two", tmp_path / "before", kind="merged")
    answer = registry.rename("net/one", "uno")
    assert (answer.renamed_to, answer.adapters, answer.revisions) == ("net/uno", 2, 3)
    assert registry.rename("net/one", "net/uno").already
    notice = "net/one/two was renamed to net/uno/two: the old name goes on, but nothing can be published to it."
    for ref, notices in (("net/uno/two", ()), ("net/one/two", (notice,))):
        out = tmp_path / ref.replace("/", "-")
        for fetched in (registry.fetch(ref, out, kind="merged"), registry.fetch(ref, out, kind="merged")):
            assert fetched.rendering == before.rendering
            assert tuple(one for one in fetched.notices if "Merged on this machine" not in one) == notices
        assert registry.verify(out).equal
        assert read_model(out) == read_model(tmp_path / "before")
    assert registry.resolve("net/one@prod").renamed_to == "net/uno"
    assert registry.resolve("net/uno@prod").renamed_to is None
    shown = registry.show("net/one").revision
    assert shown is not None
    assert shown.renamed_to == "net/uno"
    assert "renamed_to" not in registry.show("net/uno").model_dump(mode="json")["revision"]


def test_what_was_trained_before_is_published_after(registry: Registry, base: Base, tmp_path: Path) -> None:
    """A receipt, a configuration and --parent that say the old name show the revision under the new one."""
    merged = registry.fetch("net/one@1", tmp_path / "merged", kind="merged")
    registry.rename("net/one", "uno")
    by_receipt = registry.publish(adapter(tmp_path, base, 4, merged.folder), "net/uno/by-receipt")
    assert (by_receipt.revision.parent, by_receipt.revision.parent_known_by) == ("net/uno@1", "receipt")
    by_view = registry.publish(adapter(tmp_path, base, 5, "net/one", "r1"), "net/uno/by-view")
    assert (by_view.revision.parent, by_view.revision.parent_known_by) == ("net/uno@1", "view")
    by_tag = registry.publish(adapter(tmp_path, base, 6, "net/one", "prod"), "net/uno/by-tag")
    assert by_tag.revision.parent == "net/uno@2"
    given = registry.publish(adapter(tmp_path, base, 7), "net/uno/given", parent="net/one@old")
    assert (given.revision.parent, given.revision.parent_known_by) == ("net/uno@1", "given")
    with pytest.raises(ConflictError, match="net/one was renamed to net/uno, so nothing can be published to") as caught:
        registry.publish(adapter(tmp_path, base, 8), "net/one")
    assert caught.value.code == "renamed"
    with pytest.raises(ConflictError, match="publish to net/uno/new instead"):
        registry.publish(adapter(tmp_path, base, 8), "net/one/new", parent="net/one@1")
    with pytest.raises(ConflictError, match="publish to net/uno instead"):
        registry.preview(adapter(tmp_path, base, 8), "net/one")


@pytest.mark.parametrize(
    ("path", "name", "error", "sentence"),
    [
        ("net/one/two", "net/other/two", UsageError, "the parent stays net/one, because it is what two was trained on"),
        ("net/one/two", "net/two", UsageError, "the parent stays net/one"),
        ("net/one", "One", UsageError, "capital letters are not used, write 'one'"),
        ("net/one", "one", UsageError, "net/one already has this name"),
        ("net/one@1", "uno", UsageError, "a path without a revision is expected; write net/one"),
        ("net", "net2", UsageError, "`registry base rename net NAME` renames it"),
        ("net/nothing", "something", NotFoundError, "There is no adapter net/nothing"),
    ],
)
def test_what_is_refused(
    registry: Registry, base: Base, path: str, name: str, error: type[Exception], sentence: str
) -> None:
    with pytest.raises(error) as caught:
        registry.rename(path, name)
    assert sentence in str(caught.value)
    assert not any("rename" in event.action for event in registry.events())


def test_a_retraction_reaches_weights_under_both_names(registry: Registry, base: Base) -> None:
    registry.rename("net/one", "uno")
    told = registry.retract("net/one@1", reason="trained on the test set")
    assert set(told.descendants) == {"net/uno@1", "net/one/two@1", "net/uno/two@1"}
    for ref in ("net/one@1", "net/uno@1", "net/one/two", "net/uno/two"):
        with pytest.raises(RetractedError, match="trained on the test set"):
            registry.artifact(ref, kind="lora")
    registry.artifact("net/uno", kind="lora").close()
    registry.retract("net/uno@1", undo=True)
    for ref in ("net/one/two", "net/uno/two"):
        registry.artifact(ref, kind="lora").close()


def test_cards_go_along(registry: Registry, base: Base) -> None:
    """An edited card is copied: the old name keeps its own, which goes on as it was."""
    registry.set_card("net/one/two", "Answers tickets.")
    registry.rename("net/one", "uno")
    card = registry.card("net/uno/two")
    assert (card.text, card.state) == ("Answers tickets.", registry.show("net/one/two").card)
    registry.set_card("net/uno/two", "Answers mail.")
    assert registry.card("net/one/two").text == "Answers tickets."
    assert registry.card("net/uno").state is None


def test_a_base_model(registry: Registry, base: Base, tmp_path: Path) -> None:
    before = weights(registry, "net/one/two")
    answer = registry.rename_base("net", "network")
    assert (answer.adapters, answer.revisions, answer.renamed_to) == (2, 3, "network")
    assert registry.rename_base("net", "network").already
    assert [one.name for one in registry.bases()] == ["network"]
    assert [(one.name, one.renamed_to) for one in registry.bases(old_names=True)] == [
        ("net", "network"),
        ("network", None),
    ]
    assert [root.path for root in registry.tree().roots] == ["network"]
    assert [root.path for root in registry.tree(old_names=True).roots] == ["net", "network"]
    assert [one.path for one in registry.search().revisions] == ["network/one", "network/one/two"]
    for ref in ("net/one/two", "network/one/two"):
        found = weights(registry, ref)
        assert found.keys() == before.keys()
        for name, tensor in before.items():
            assert np.array_equal(found[name], tensor)
    assert registry.resolve("net").renamed_to == "network"
    new = registry.publish(adapter(tmp_path, base, 4), "network/three")
    assert new.revision.reference == "network/three@1"
    with pytest.raises(ConflictError, match="publish to network/three instead"):
        registry.publish(adapter(tmp_path, base, 5), "net/three")


def test_storage_is_counted_once(registry: Registry, base: Base) -> None:
    before, french = registry.du(), registry.du("net/one")
    registry.rename("net/one", "uno")
    registry.rename("net/uno", "eins")
    after = registry.du()
    assert [one.name for one in after.adapters] == ["net/eins", "net/eins/two"]
    same = ("size", "full_checkpoints", "materialisations", "collectable")
    assert [getattr(after, name) for name in same] == [getattr(before, name) for name in same]
    assert [(one.size, one.own) for one in after.revisions] == [(one.size, one.own) for one in before.revisions]
    assert registry.du("net/one") == french
    registry.rename_base("net", "network")
    assert registry.du().model_dump(include=set(same)) == before.model_dump(include=set(same))


def test_everything_is_copied(registry: Registry, base: Base, tmp_path: Path) -> None:
    second = plain_base(tmp_path / "second", SHAPES, seed=7)
    registry.add_base("second", second.folder)
    registry.publish(adapter(tmp_path, second, 4), "second/x", tags=["prod"])
    registry.add_base("third", base.folder)
    registry.rename("net/one", "uno")
    told: list[str] = []
    with closing(LocalRegistry.open(tmp_path / "target", cache_folder=tmp_path / "cache")) as target:
        answers = registry.copy_all(target, copied=lambda one: told.append(one.base))
        assert told == [one.base for one in answers] == ["net", "second", "third"]
        assert [one.path for one in target.search().revisions] == ["net/uno", "net/uno/two", "second/x"]
        digests = {one.reference: one.digest for one in registry.search(all_revisions=True).revisions}
        assert {one.reference: one.digest for one in target.search(all_revisions=True).revisions} == digests
        again = registry.copy_all(target)
        assert not any(one.created for answer in again for one in answer.revisions)
        assert sum(one.bytes_copied for one in again) == 0
        registry.copy("net/one", target, recursive=True)  # an old name that is asked for
        assert target.resolve("net/one/two").digest == registry.resolve("net/uno/two").digest
        # What is an old name over there is told so.
        target.rename("second/x", "y")
        registry.publish(adapter(tmp_path, second, 5), "second/x")
        with pytest.raises(ConflictError, match="publish to second/y instead"):
            registry.copy_all(target)


@EMBEDDED
def test_the_views_warn_of_an_old_name(base: Base, registry: Registry) -> None:
    assert isinstance(registry, LocalRegistry)
    with served(registry, anonymous="open") as url, httpx.Client(base_url=url, follow_redirects=True) as client:
        before = {
            (view, name): client.get(f"/{view}/api/models/net/one/revision/{name}").json()
            for view in ("hf", "hf-lora", "hf-published")
            for name in ("main", "r1", "old")
        }
        registry.rename("net/one", "uno")
        for (view, name), told in before.items():
            answer = client.get(f"/{view}/api/models/net/one/revision/{name}")
            assert answer.json() == told
            warning = "renamed net/one; net/one was renamed to net/uno: the old name goes on"
            assert answer.headers["x-hf-warning"].startswith(warning)
            new = client.get(f"/{view}/api/models/net/uno/revision/{name}")
            assert "x-hf-warning" not in new.headers
            assert new.json()["sha"] != told["sha"]
            assert client.get(f"/{view}/api/models/net/one/revision/{told['sha']}").json() == told
        file = client.get("/hf/net/one/resolve/main/model.safetensors")
        assert file.content == client.get("/hf/net/uno/resolve/main/model.safetensors").content
        assert "x-hf-warning" in client.head("/hf/net/one/resolve/main/model.safetensors").headers


@EMBEDDED
def test_rights(registry: Registry, base: Base) -> None:
    assert isinstance(registry, LocalRegistry)
    refused: list[tuple[Role, list[str]]] = [
        ("reader", ["net"]),
        ("writer", ["net/one"]),
        ("admin", ["net/one/two", "net/uno"]),
    ]
    for role, scopes in refused:
        with pytest.raises(NotAllowedError):
            acting(registry, role, *scopes).rename("net/one", "uno")
    refused = [("writer", []), ("admin", ["net"]), ("admin", ["network"])]
    for role, scopes in refused:
        with pytest.raises(NotAllowedError):
            acting(registry, role, *scopes).rename_base("net", "network")
    limited = acting(registry, "writer", "net/one", "net/uno")
    assert limited.rename("net/one", "uno").renamed_to == "net/uno"
    old = acting(registry, "writer", "net/one")
    assert old.resolve("net/one").renamed_to is None
    assert [one.path for one in old.search().revisions] == ["net/one", "net/one/two"]
    with pytest.raises(NotFoundError):
        old.show("net/uno")
    assert old.tag("net/one@1", "mine").reference == "net/one@1"
    registry.rename_base("net", "network")
    assert [one.name for one in old.bases(old_names=True)] == ["net"]
    assert old.bases()[0].renamed_to is None
    assert old.bundle("net/one/two").renamed_to is None
    assert "uno" not in str(old.events())
    assert "network" not in str([*old.events(), old.tree(), *old.bases(), old.show("net/one"), old.du()])
