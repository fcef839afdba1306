"""A served registry that the Hub's own client pushes to, in this process."""

from __future__ import annotations

import base64
import itertools
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import huggingface_hub
import pytest
from huggingface_hub import HfApi

from registry.app import service_app
from registry.errors import NotFoundError
from registry.schemas import RevisionSummary
from registry.schemas.protocol import HUB_ORIGIN
from registry.services.local import LocalRegistry
from tests.kit import plain_base, write_adapter
from tests.kit.bases import Base
from tests.kit.library import running
from tests.kit.shelf import Shelf

PAIR = ("adapter_config.json", "adapter_model.safetensors")


@pytest.fixture(autouse=True)
def _told(monkeypatch: pytest.MonkeyPatch) -> None:
    """The client says what it does in a shell that has what `registry env` prints."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_USER_AGENT_ORIGIN", HUB_ORIGIN)


@dataclass
class Pushing:
    """``tiny/a`` has one revision, ``tiny/two`` has two; and tokens that may do more or less."""

    registry: LocalRegistry
    base: Base
    address: str
    secrets: Mapping[str, str]
    root: Path
    _numbers: Iterator[int] = field(default_factory=lambda: itertools.count(100))

    def name(self, above: str = "tiny/a") -> str:
        """A path that nothing was published to."""
        return f"{above}/n{next(self._numbers)}"

    def adapter(self, *, seed: int | None = None, **config: Any) -> Path:
        """The folder of an adapter that fits the base."""
        number = next(self._numbers)
        folder = self.root / f"adapter-{number}"
        names = list(self.base.modules)[:2]
        write_adapter(folder, self.base, names, r=2, seed=number if seed is None else seed, config=config)
        return folder

    def api(self, who: str = "writer", view: str = "hf") -> HfApi:
        return HfApi(endpoint=f"{self.address}/{view}", token=self.secrets.get(who, False))

    def client(self, who: str = "writer", view: str = "hf") -> httpx.Client:
        headers = {"Authorization": f"Bearer {self.secrets[who]}"} if who in self.secrets else {}
        return httpx.Client(base_url=f"{self.address}/{view}", headers=headers, timeout=60)

    def revisions(self, path: str) -> list[RevisionSummary]:
        """All revisions of a path, oldest first."""
        try:
            return list(self.registry.log(path).revisions)[::-1]
        except NotFoundError:
            return []

    def files(self, reference: str, to: Path) -> dict[str, bytes]:
        """What was published, by name."""
        self.registry.fetch(reference, to, kind="published")
        return {one.name: one.read_bytes() for one in to.iterdir() if one.name != "registry-receipt.json"}


def repo_of(path: str) -> str:
    base, _, names = path.partition("/")
    return f"{base}/{names.replace('/', '.')}"


def body(files: dict[str, bytes], **header: Any) -> bytes:
    """A commit as clients send it."""
    said = [{"key": "header", "value": {"summary": "step 5", "description": "", **header}}]
    for path, data in files.items():
        said.append({"key": "file", "value": {"path": path, "content": base64.b64encode(data).decode()}})
    return b"".join(json.dumps(line).encode() + b"\n" for line in said)


@pytest.fixture(scope="module")
def pushing(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pushing]:
    root = tmp_path_factory.mktemp("pushing")
    shelf = Shelf(root)
    base = shelf.base("tiny", plain_base)
    registry = shelf.registry
    secrets = {role: registry.create_token(role, name=role).secret for role in ("reader", "writer")}
    secrets["writer of a"] = registry.create_token("writer", name="writer of a", scopes=["tiny/a"]).secret
    with running(service_app(registry)) as address:
        made = Pushing(registry, base, address, secrets, root)
        registry.publish(made.adapter(), "tiny/a")
        for _ in range(2):
            registry.publish(made.adapter(), "tiny/two")
        yield made
    shelf.close()


@pytest.fixture(autouse=True)
def _at_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is asked of any other host, and nothing is kept where the user's things are."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_DISABLE_TELEMETRY", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_DISABLE_PROGRESS_BARS", True)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
