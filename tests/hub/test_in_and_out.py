"""Out of one registry and into another through the Hub-compatible views, with tokens; and trained in between."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from registry.errors import NotFoundError
from registry.services.local import LocalRegistry
from tests.conftest import StartService
from tests.kit import Base, add_tokenizer, llama_base, write_adapter
from tests.kit.hub_folder import hub_client
from tests.kit.servers_service import ServiceProcess, clean_environ

REGISTRY = str(Path(sys.executable).with_name("registry"))
TRAIN = """
import sys
from huggingface_hub import snapshot_download
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM

def train(place, out, loaded=None, **told):
    model = AutoModelForCausalLM.from_pretrained(place, revision=loaded)
    config = LoraConfig(r=2, target_modules=["q_proj"], init_lora_weights=False)
    get_peft_model(model, config, **told).save_pretrained(f"{sys.argv[1]}/{out}")

train("llama/support", "told", "r1", revision="r1")
train("llama/support", "untold", "r1")
train(snapshot_download("llama/support", revision="stable"), "cached")
train("llama/_", "on-the-base")
"""


@dataclass(frozen=True)
class Source:
    """A service with tokens over llama, llama/support@1 [stable] and @2, and llama/secret@1."""

    service: ServiceProcess
    base: Base
    writer: str
    scoped: str  # for llama/secret

    def environ(self, home: Path) -> dict[str, str]:
        """Of somebody with a home folder of their own."""
        own = {"XDG_CONFIG_HOME": "config", "XDG_DATA_HOME": "data", "XDG_CACHE_HOME": "cache", "HF_HOME": "hf"}
        environ = clean_environ({name: str(home / folder) for name, folder in own.items()})
        for name in ("HF_TOKEN", "HF_ENDPOINT", "HF_HUB_OFFLINE", "HF_HUB_CACHE", "TRANSFORMERS_OFFLINE"):
            environ.pop(name, None)
        return environ | {"REGISTRY_URL": self.service.url, "REGISTRY_TOKEN": self.writer}


@pytest.fixture
def source(tmp_path: Path, start_service: StartService) -> Source:
    base = llama_base(tmp_path / "base")
    add_tokenizer(base.folder)
    with closing(LocalRegistry.open(tmp_path / "source", cache_folder=tmp_path / "cache")) as local:
        local.add_base("llama", base.folder)
        for seed, path in enumerate(("llama/support", "llama/support", "llama/secret")):
            made = write_adapter(tmp_path / f"{seed}", base, ["q_proj"], seed=seed)
            local.publish(made, path, tags=["stable"] if not seed else [])
        writer = local.create_token("writer").secret
        scoped = local.create_token("reader", scopes=["llama/secret"]).secret
    service = start_service({"REGISTRY_URL": str(tmp_path / "source")})
    return Source(service, base, writer, scoped)


def test_what_the_views_give_is_what_was_there(source: Source, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache, url = tmp_path / "hub", source.service.url
    opened = LocalRegistry.open(tmp_path / "target", cache_folder=tmp_path / "cache")
    with closing(opened) as target, closing(LocalRegistry.open(tmp_path / "source")) as original:
        with hub_client(monkeypatch, f"{url}/hf", cache, source.writer):
            added = target.add_base("llama", "hf:llama/_").base
        assert (added.digest, added.files) == (original.show("llama").base.digest, original.show("llama").files)
        assert added.source is not None
        assert added.source.endswith(f" at {url}/hf")
        with hub_client(monkeypatch, f"{url}/hf-published", cache, source.writer):
            for number in (1, 2):
                published = target.publish(f"hf:llama/support@r{number}", "llama/support").revision
                assert published.digest == original.resolve(f"llama/support@{number}").digest
            assert target.publish("hf:llama/support@stable", "llama/support").revision.number == 1
        for token in (source.scoped, "wrong", None):
            hidden = pytest.raises(NotFoundError, match="HF_TOKEN does not give access to it")
            with hub_client(monkeypatch, f"{url}/hf-published", cache, token), hidden:
                target.publish("hf:llama/support", "llama/support")


@pytest.mark.long
@pytest.mark.slow  # imports transformers and PEFT in a process of its own
def test_what_was_trained_on_a_view_knows_its_parent(source: Source, tmp_path: Path) -> None:
    """`eval "$(registry env)"`, then transformers and PEFT as they are, then publish."""
    environ = source.environ(tmp_path)
    (tmp_path / "train.py").write_text(TRAIN)
    words = f'eval "$("{REGISTRY}" env)" && exec "{sys.executable}" train.py out'
    done = subprocess.run(["sh", "-c", words], cwd=tmp_path, env=environ, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr

    def publish(folder: str, path: str, exit_code: int = 0) -> Any:
        ended = run(tmp_path, environ, "publish", f"out/{folder}", path, "--json")
        assert ended.returncode == exit_code, ended.stderr
        return json.loads(ended.stderr.splitlines()[-1] if exit_code else ended.stdout)

    told = publish("told", "llama/support/french")
    assert told["revision"]["parent"] == "llama/support@1"
    assert told["parent_reason"] == "the configuration, llama/support at r1, says so"
    cached = publish("cached", "llama/support/french")
    assert cached["revision"]["parent"] == "llama/support@1"
    assert "models--llama--support/snapshots/" in cached["revision"]["trained_on"]
    untold = publish("untold", "llama/support/french", 2)
    assert untold["code"] == "parent_ambiguous"
    assert "get_peft_model(model, config, revision='r3')" in untold["message"]
    assert publish("on-the-base", "llama/support/french", 5)["code"] == "parent_mismatch"
    assert publish("on-the-base", "llama/new")["revision"]["parent"] == "llama"


def run(folder: Path, environ: Mapping[str, str], *words: str) -> subprocess.CompletedProcess[str]:
    """A command line of ours."""
    return subprocess.run(
        [REGISTRY, *words],
        cwd=folder,
        env=dict(os.environ) | dict(environ),
        capture_output=True,
        text=True,
        check=False,
    )
