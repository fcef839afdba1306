"""Reads kustomizations, as far as this project's use them.

What is used is resources, components, generators of ConfigMaps from files, and images; anything else is refused. The
digest that kustomize puts at the end of a generated name is left out.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

Manifest = dict[str, Any]


def env_file(text: str) -> dict[str, str]:
    """What a file of NAME=VALUE lines says."""
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    pairs = [line.partition("=") for line in lines]
    assert all(separator for _, separator, _ in pairs), lines
    return {name: value for name, _, value in pairs}


def manifests(path: Path) -> list[Manifest]:
    """The documents of a file, or of the kustomization in a folder."""
    if not path.is_dir():
        return [document for document in yaml.safe_load_all(path.read_text(encoding="utf-8")) if document]
    said = yaml.safe_load((path / "kustomization.yaml").read_text(encoding="utf-8"))
    known = {"apiVersion", "kind", "resources", "components", "configMapGenerator", "images"}
    assert set(said) <= known, f"{path} uses {set(said) - known}, which is not read here"
    found = [manifest for name in said.get("resources", ()) for manifest in manifests(path / name)]
    found += [_config_map(path, asked) for asked in said.get("configMapGenerator", ())]
    _set_images(found, said.get("images", ()))
    for name in said.get("components", ()):
        component = yaml.safe_load((path / name / "kustomization.yaml").read_text(encoding="utf-8"))
        assert component["kind"] == "Component"
        found += manifests(path / name)
        _set_images(found, component.get("images", ()))
    return found


def containers(manifest: Manifest) -> Iterator[Manifest]:
    """Every container that a manifest starts."""
    spec = pod_spec(manifest)
    if spec is not None:
        yield from spec["containers"]


def pod_template(manifest: Manifest) -> Manifest | None:
    """The pod that a manifest makes, with its metadata; None where it makes none."""
    match manifest["kind"]:
        case "Pod":
            return manifest
        case "Deployment" | "Job":
            template: Manifest = manifest["spec"]["template"]
            return template
        case "CronJob":
            of_job: Manifest = manifest["spec"]["jobTemplate"]["spec"]["template"]
            return of_job
        case _:
            return None


def pod_spec(manifest: Manifest) -> Manifest | None:
    """The spec of the pod that a manifest makes."""
    template = pod_template(manifest)
    return None if template is None else template["spec"]


def _config_map(folder: Path, asked: Manifest) -> Manifest:
    assert set(asked) <= {"name", "envs", "files", "options"}, asked
    data: dict[str, str] = {}
    for name in asked.get("envs", ()):
        data |= env_file((folder / name).read_text(encoding="utf-8"))
    for name in asked.get("files", ()):
        data[name] = (folder / name).read_text(encoding="utf-8")
    labels = asked.get("options", {}).get("labels", {})
    metadata = {"name": asked["name"], "labels": labels}
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": data}


def _set_images(found: list[Manifest], images: list[Manifest]) -> None:
    new = {image["name"]: f"{image['newName']}:{image['newTag']}" for image in images}
    for manifest in found:
        for container in containers(manifest):
            container["image"] = new.get(container["image"], container["image"])
