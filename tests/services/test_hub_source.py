"""Base models and adapters taken from a Hub, in process and over HTTP: what is brought, and what goes wrong."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from registry.client.remote import RemoteRegistry
from registry.digest import sha256_digest
from registry.errors import (
    IntegrityError,
    InvalidAdapterError,
    InvalidBaseError,
    NotAllowedError,
    NotFoundError,
    RegistryError,
    UnavailableError,
    UsageError,
)
from registry.folders.hub.repository import check_source
from registry.services.local import LocalRegistry
from registry.tensors import limited
from tests.kit import Base, add_tokenizer, plain_base, read_tensors, write_adapter, write_tensors
from tests.kit.hub_folder import HubFolders, Repo, commit_of, hub_client
from tests.kit.sending import SHAPES
from tests.kit.servers_service import clean_environ
from tests.kit.serving import ServedRegistry

NO_CONNECTION = "http://127.0.0.1:9/hub"
Anywhere = LocalRegistry | RemoteRegistry


@pytest.fixture
def hub() -> Iterator[HubFolders]:
    with HubFolders() as running:
        yield running


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "hub-cache"


@pytest.fixture(autouse=True)
def client(hub: HubFolders, cache: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    with hub_client(monkeypatch, hub.url, cache):
        yield


@pytest.fixture
def net(tmp_path: Path) -> Base:
    """A base model, with what repositories have besides."""
    made = plain_base(tmp_path / "net", SHAPES)
    add_tokenizer(made.folder)
    for name in ("pytorch_model.bin", "onnx/model.onnx", "checkpoint-5/optimizer.pt", ".gitattributes"):
        place = made.folder / name
        place.parent.mkdir(exist_ok=True)
        place.write_bytes(b"not taken")
    return made


@pytest.fixture
def local(tmp_path: Path) -> Iterator[LocalRegistry]:
    with closing(LocalRegistry.open(tmp_path / "registry", cache_folder=tmp_path / "cache")) as opened:
        yield opened


@pytest.fixture(params=["in process", "over HTTP"])
def registry(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Anywhere]:
    opened = LocalRegistry.open(tmp_path / "registry", cache_folder=tmp_path / "cache")
    with closing(opened if request.param == "in process" else ServedRegistry(opened, tmp_path / "client")) as either:
        yield either


def adapter(net: Base, folder: Path, seed: int = 0) -> Path:
    return write_adapter(folder, net, ["a"], seed=seed)


def test_takes_a_base_and_an_adapter_and_says_where_they_are_from(
    registry: Anywhere, hub: HubFolders, net: Base, tmp_path: Path
) -> None:
    commit = hub.add("org/Net-1B", net.folder)
    added = registry.add_base("net", "hf:org/Net-1B")
    source = f"hf:org/Net-1B@{commit} at {hub.url}"
    assert added.base.source == source
    assert registry.bases()[0].source == source
    assert registry.show("net").base.source == source
    assert {left.path: left.reason for left in added.left_out} == {
        ".gitattributes": "hidden",
        "checkpoint-5": "trainer checkpoint",
        "onnx/model.onnx": "weights in another format, which a merge would not change",
        "pytorch_model.bin": "pickle",
    }
    assert not {left.path for left in added.left_out} & set(hub.got())
    assert not registry.add_base("net", net.folder).created  # the very same files

    made = adapter(net, tmp_path / "made")
    (made / "training_args.bin").write_bytes(b"a pickle")
    (made / "model.safetensors").write_bytes((net.folder / "model.safetensors").read_bytes())  # what follows from it
    commit = hub.add("org/support", made)
    published = registry.publish("hf:org/support@main", "net/support")
    assert published.revision.source == f"hf:org/support@{commit} at {hub.url}"
    not_taken = {left.path for left in published.left_out}
    assert not_taken == {"model.safetensors", "training_args.bin"}
    before = hub.got().index("adapter_config.json")
    assert not not_taken & set(hub.got()[before:])
    assert registry.log("net/support").revisions[0].source == published.revision.source
    same = registry.publish(made, "net/support")
    assert not same.created
    assert same.revision == published.revision  # where it is from is not what it is


def test_an_adapter_of_old_versions_of_peft_has_its_pickle_read(
    local: LocalRegistry, hub: HubFolders, net: Base, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    local.add_base("net", net.folder)
    made = adapter(net, tmp_path / "made")
    weights = (made / "adapter_model.safetensors").read_bytes()
    (made / "adapter_model.safetensors").rename(made / "adapter_model.bin")
    monkeypatch.setattr(limited, "convert_pickle", lambda _, out: out.write_bytes(weights))  # which has its own tests
    commit = hub.add("org/old", made)
    answer = local.publish("hf:org/old", "net/old")
    assert answer.revision.source == f"hf:org/old@{commit} at {hub.url}"
    assert [one.reason.partition(",")[0] for one in answer.left_out if one.path == "adapter_model.bin"] == ["pickle"]
    assert "adapter_model.bin, a pickle" in str(answer.revision.notices)


def test_what_is_here_is_not_brought_again_and_a_moved_name_is(
    local: LocalRegistry, hub: HubFolders, net: Base, tmp_path: Path
) -> None:
    local.add_base("net", net.folder)
    repo = hub.repos["org/support"] = Repo()
    first = repo.commit(adapter(net, tmp_path / "1"), "prod")
    assert local.publish("hf:org/support@prod", "net/support").revision.number == 1
    assert "adapter_model.safetensors" in hub.got()
    assert not local.publish("hf:org/support@prod", "net/support").created
    assert hub.got() == []
    second = repo.commit(adapter(net, tmp_path / "2", seed=1), "prod")
    assert local.publish("hf:org/support@prod", "net/support").revision.number == 2
    assert local.publish(f"hf:org/support@{first}", "net/support").revision.number == 1
    sources = [one.source for one in local.log("net/support").revisions]
    assert sources == [f"hf:org/support@{commit} at {hub.url}" for commit in (second, first)]


def test_a_run_that_failed_leaves_what_arrived(
    local: LocalRegistry, hub: HubFolders, net: Base, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.add("org/net", net.folder)
    (net.folder / "model.safetensors").rename(net.folder.parent / "kept")
    with pytest.raises(InvalidBaseError, match="hf:org/net has no safetensors weights"):
        local.add_base("net", "hf:org/net")
    assert "tokenizer.json" not in hub.got()  # what can't be a base is not brought
    (net.folder.parent / "kept").rename(net.folder / "model.safetensors")
    local.add_base("net", "hf:org/net")
    assert "config.json" not in hub.got()


@pytest.mark.parametrize(
    ("place", "kind", "words"),
    [
        ("hf:org/none", NotFoundError, "There is no repository org/none at http://127.0.0.1"),
        ("hf:org/hidden", NotFoundError, "HF_TOKEN does not give access to it"),
        ("hf:org/net@v9", NotFoundError, "has no revision v9"),
        ("hf:org/gated", NotAllowedError, "org/gated at .* is gated: request access"),
        ("hf:org/net@a b", UsageError, "hf:ORG/REPO or hf:ORG/REPO@REVISION is expected"),
        ("hf:", UsageError, "is expected"),
        ("hf:org/net/more", UsageError, "is expected"),
        ("hf:org/net@../../x", UsageError, "is expected"),
        ("hf:or--g/net", UsageError, "is expected"),
    ],
)
def test_tells_what_is_wrong_in_one_sentence(
    local: LocalRegistry, hub: HubFolders, net: Base, place: str, kind: type[RegistryError], words: str
) -> None:
    hub.add("org/net", net.folder)
    hub.repos |= {"org/gated": Repo(gated=True), "org/hidden": Repo(token="another")}
    for call in (local.add_base, lambda path, place: local.publish(place, f"{path}/x")):
        with pytest.raises(kind, match=words) as told:
            call("net", place)
        assert "\n" not in str(told.value)
        assert str(told.value).endswith(".")


def test_without_a_network(registry: Anywhere, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with (
        hub_client(monkeypatch, NO_CONNECTION, cache),
        pytest.raises(UnavailableError, match="can't be downloaded from"),
    ):
        registry.add_base("net", "hf:org/net")


def test_offline_takes_what_the_cache_has(
    local: LocalRegistry, hub: HubFolders, net: Base, monkeypatch: pytest.MonkeyPatch
) -> None:
    from huggingface_hub import constants

    commit = hub.add("org/net", net.folder)
    first = local.add_base("net", f"hf:org/net@{commit}").base
    hub.seen.clear()
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    again = local.add_base("other", f"hf:org/net@{commit}").base
    assert (again.digest, again.files, again.source) == (first.digest, first.files, first.source)
    assert hub.seen == []
    with pytest.raises(UnavailableError, match="not in the Hub cache, and HF_HUB_OFFLINE"):
        local.add_base("third", "hf:org/third")


def test_bytes_are_what_the_hub_says(registry: Anywhere, hub: HubFolders, net: Base, tmp_path: Path) -> None:
    hub.add("org/net", net.folder)
    hub.sha256["model.safetensors"] = "0" * 64
    with pytest.raises(IntegrityError, match=r"model.safetensors of hf:org/net@.* is sha256:0000.* damaged") as told:
        registry.add_base("net", "hf:org/net")
    assert told.value.code == "corrupt"
    hub.sha256.clear()
    registry.add_base("net", "hf:org/net")
    hub.add("org/support", adapter(net, tmp_path / "made"))
    hub.sha256["adapter_model.safetensors"] = "0" * 64
    with pytest.raises(IntegrityError, match="damaged"):
        registry.publish("hf:org/support", "net/support")
    assert registry.tree("net").roots[0].children == ()


def test_a_folder_of_this_machine_says_nothing_of_what_comes_from_a_hub(
    registry: Anywhere, hub: HubFolders, net: Base, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The name in its configuration is of a folder of whoever trained it; here something else may be called so."""
    registry.add_base("net", net.folder)
    made = write_adapter(tmp_path / "made", net, ["a"], config={"base_model_name_or_path": "merged"})
    hub.add("org/support", made)
    (tmp_path / "merged").mkdir()
    (tmp_path / "merged" / "registry-receipt.json").write_text("{")
    (tmp_path / "merged" / "config.json").write_text('{"quantization_config": {"quant_method": "awq"}}')
    monkeypatch.chdir(tmp_path)
    revision = registry.publish("hf:org/support", "net/support").revision
    assert (revision.parent_known_by, revision.notices) == ("assumed", ())


def test_a_repository_with_a_lora_file_of_an_image_model_is_taken(
    registry: Anywhere, hub: HubFolders, net: Base, tmp_path: Path
) -> None:
    registry.add_base("net", net.folder)
    made = adapter(net, tmp_path / "made")
    tensors = read_tensors(made / "adapter_model.safetensors")
    repo = tmp_path / "repo"
    repo.mkdir()
    renamed = {name.replace("base_model.model.", "unet."): tensor for name, tensor in tensors.items()}
    write_tensors(repo / "pytorch_lora_weights.safetensors", renamed)
    (repo / "README.md").write_text("# A style\n")
    hub.add("org/style", repo)
    published = registry.publish("hf:org/style", "net/style").revision
    stored = {one.path: one.digest for one in registry.show(published.reference).files}
    assert set(stored) == {"README.md", "adapter_config.json", "adapter_model.safetensors"}
    assert stored["adapter_model.safetensors"] == sha256_digest(
        (repo / "pytorch_lora_weights.safetensors").read_bytes()
    )
    registry.fetch("net/style", tmp_path / "composed", kind="lora")
    factor = "base_model.model.a.lora_A.weight"
    assert factor in read_tensors(tmp_path / "composed" / "adapter_model.safetensors")


def test_a_repository_that_is_no_adapter_is_not_brought(local: LocalRegistry, hub: HubFolders, net: Base) -> None:
    hub.add("org/net", net.folder)
    local.add_base("net", net.folder)
    with pytest.raises(InvalidAdapterError, match="hf:org/net contains only trainer checkpoints: checkpoint-5") as told:
        local.publish("hf:org/net", "net/x")
    assert told.value.code == "checkpoint_folders"
    assert hub.got() == []


def test_sends_the_token_and_takes_no_repository_where_a_folder_is_meant(
    local: LocalRegistry, hub: HubFolders, net: Base, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.add("org/net", net.folder)
    hub.repos["org/net"].token = "secret"
    with hub_client(monkeypatch, hub.url, cache, token="secret"):
        local.add_base("net", "hf:org/net")
    assert hub.sent_tokens == {"secret"}
    with pytest.raises(UsageError, match="needs a folder on this machine"):
        local.publish_tree("hf:org/net", "net")


@pytest.mark.parametrize(
    "text", ["hf:org/net", "x", "hf:org/net@v1", f"hf:org/net@{commit_of('a')}\n", f"hf:a@{'0' * 40} at ftp://x"]
)
def test_a_client_can_not_say_just_anything_about_a_source(text: str) -> None:
    with pytest.raises(UsageError, match="The source"):
        check_source(text)
    assert check_source(f"hf:org/net@{commit_of('a')}") is not None


@pytest.mark.slow
def test_the_command_prints_the_result_alone(hub: HubFolders, net: Base, tmp_path: Path) -> None:
    commit = hub.add("org/net", net.folder)
    settings = {"HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path / "home"), "REGISTRY_URL": str(tmp_path / "made")}
    ended = subprocess.run(
        [sys.executable, "-m", "registry.cli.main", "base", "add", "net", "hf:org/net", "--json"],
        env=clean_environ(settings),
        capture_output=True,
        text=True,
        check=False,
    )
    assert (ended.returncode, ended.stderr) == (0, "")
    assert json.loads(ended.stdout)["base"]["source"] == f"hf:org/net@{commit} at {hub.url}"
    assert (tmp_path / "home" / "hub" / "models--org--net").is_dir()


class Stages:
    """What is told of each stage: its bytes, and how many are done."""

    def __init__(self) -> None:
        self.told: list[list[object]] = []

    def begin(self, what: str, total: int) -> None:
        self.told.append([what, total, 0])

    def advance(self, amount: int) -> None:
        self.told[-1][2] += amount  # type: ignore[operator]


def test_every_byte_of_a_download_is_told_once(local: LocalRegistry, hub: HubFolders, net: Base) -> None:
    hub.add("org/net", net.folder)
    hub.cut = {"model.safetensors": 1}  # what is brought twice is not told twice
    stages = Stages()
    local.add_base("net", "hf:org/net", progress=stages)
    downloads = [stage[1:] for stage in stages.told if stage[0] == "Downloading"]
    assert max(downloads, key=lambda stage: stage[0]) == [sum(f.size for f in local.bases()[0].files)] * 2  # type: ignore[return-value, arg-type]
    assert all(total == done for total, done in downloads)
