"""The manifests of engines that follow the tree: they fit the schemas, the program, and each other."""

from __future__ import annotations

from typing import Any

import kubernetes_validate
import pytest
import yaml

from registry import __version__
from registry.follow.asked import Engines, sink_of
from registry.settings import read_settings
from tests.house.command_lines import parse
from tests.root import ROOT

FOLDER = ROOT / "deploy" / "engines"
FILES = sorted(FOLDER.iterdir())
PAGE = (ROOT / "docs" / "serving.md").read_text(encoding="utf-8")


def pod(name: str) -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load((FOLDER / name).read_text(encoding="utf-8"))["spec"]["template"]["spec"]
    return found


@pytest.mark.parametrize("version", ["1.30", kubernetes_validate.latest_version()])
def test_manifests_of_engines_fit_the_schemas(version: str) -> None:
    for file in FILES:
        assert kubernetes_validate.validate(yaml.safe_load(file.read_text(encoding="utf-8")), version, strict=True)
        assert f"deploy/engines/{file.name}" in PAGE


def test_engines_set_what_is_a_setting_and_mount_what_they_name() -> None:
    for file in FILES:
        spec = pod(file.name)
        volumes = {volume["name"] for volume in spec["volumes"]}
        for container in (*spec.get("initContainers", ()), *spec["containers"]):
            said = {one["name"]: one.get("value", "secret") for one in container.get("env", ())}
            read_settings({name: value for name, value in said.items() if name.startswith("REGISTRY_")})
            mounts = {mount["mountPath"]: mount["name"] for mount in container["volumeMounts"]}
            assert set(mounts.values()) <= volumes
            for place in (said.get("REGISTRY_CACHE_DIR"), said.get("VLLM_LORA_RESOLVER_CACHE_DIR")):
                assert place is None or any(place.startswith(mount) for mount in mounts), place


def test_the_follower_is_ours_brings_all_first_and_then_stays_beside_the_engine() -> None:
    first, follower = pod("vllm-folder.yaml")["initContainers"]
    (engine,) = pod("vllm-folder.yaml")["containers"]
    for one in (first, follower):
        assert one["image"].endswith(f"/adapter-registry:{__version__}")
        parse(one["args"])
        assert one["securityContext"]["readOnlyRootFilesystem"]
        assert "folder=/adapters" in one["args"]
    assert first["args"][-1] == "--once"
    assert follower["restartPolicy"] == "Always"  # which makes it a sidecar
    assert [word for word in first["args"] if word != "--once"] == follower["args"][:-2]
    rank = engine["args"][engine["args"].index("--max-lora-rank") + 1]
    assert rank == first["args"][first["args"].index("--max-lora-rank") + 1]
    assert next(mount for mount in engine["volumeMounts"] if mount["name"] == "adapters")["readOnly"]
    environ = {one["name"]: one.get("value") for one in engine["env"]}
    assert environ["VLLM_LORA_RESOLVER_CACHE_DIR"] == "/adapters/.revisions"


def test_the_follower_into_an_engine_reaches_it_and_shares_its_folder() -> None:
    (follower,) = pod("vllm-follow.yaml")["initContainers"]
    (engine,) = pod("vllm-follow.yaml")["containers"]
    parse(follower["args"])
    assert follower["image"].endswith(f"/adapter-registry:{__version__}")
    assert follower["restartPolicy"] == "Always"
    place = sink_of(follower["args"][follower["args"].index("--to") + 1])
    assert isinstance(place, Engines)
    assert place.url == f"http://127.0.0.1:{engine['ports'][0]['containerPort']}"
    for one in (follower, engine):
        mounts = {mount["name"]: mount["mountPath"] for mount in one["volumeMounts"]}
        assert mounts["adapters"] == str(place.room.folder)
    rank = engine["args"][engine["args"].index("--max-lora-rank") + 1]
    assert rank == follower["args"][follower["args"].index("--max-lora-rank") + 1]
    assert {"name": "VLLM_ALLOW_RUNTIME_LORA_UPDATING", "value": "1"} in engine["env"]


def test_the_engine_with_the_plugin_has_one_rank() -> None:
    (engine,) = pod("vllm-plugin.yaml")["containers"]
    environ = {one["name"]: one.get("value") for one in engine["env"]}
    assert environ["REGISTRY_VLLM_MAX_RANK"] == engine["args"][engine["args"].index("--max-lora-rank") + 1]
    assert environ["VLLM_ALLOW_RUNTIME_LORA_UPDATING"] == "1"
