"""How adapter-registry-client is built: from the tree that it lies in, or from its own sdist, which holds its parts."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface
from hatchling.metadata.plugin.interface import MetadataHookInterface


def _tree(root: str) -> Path:
    """Where the package is: beside the build files in an sdist, beside their folder in a checkout."""
    return Path(root) if (Path(root) / "registry").is_dir() else Path(root).parent


class Version(MetadataHookInterface):
    """The version is that of the package."""

    def update(self, metadata: dict[str, Any]) -> None:
        text = (_tree(self.root) / "registry" / "version.py").read_text(encoding="utf-8")
        found = re.search(r'^__version__ = "(.+)"$', text, flags=re.MULTILINE)
        if found is None:
            raise ValueError("registry/version.py names no version")
        metadata["version"] = found[1]


class Parts(BuildHookInterface[Any]):
    """Puts the parts of the package that pyproject.toml lists into the archive, and the license into the sdist."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        del version
        tree = _tree(self.root)
        parts = [*self.config["parts"], *(["LICENSE"] if self.target_name == "sdist" else [])]
        if absent := [part for part in parts if not (tree / part).exists()]:
            raise FileNotFoundError(f"{', '.join(absent)}: listed in pyproject.toml, and not in {tree}")
        build_data["force_include"] |= {str(tree / part): part for part in parts}
