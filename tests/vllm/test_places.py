"""Where the adapters come from and where they lie: a service, the cache that others use too, vLLM's own folder."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from pathlib import Path

from registry.folders.staging import FetchCache, hold
from tests.kit.recipes import Recipe
from tests.kit.serving import served
from tests.root import ROOT
from tests.vllm.conftest import MakeResolver, Place
from tests.vllm.engine import Server, weights_in

HOLDER = """
import sys
from pathlib import Path
from registry.folders.staging import hold
print(hold(Path(sys.argv[1])) is not None, flush=True)
sys.stdin.read()
"""


def test_a_service_gives_the_same(tree: Place, make_resolver: MakeResolver) -> None:
    tree.publish("net/wide", Recipe(("one", "two"), r=9))
    with served(tree.registry) as url:
        server = Server(make_resolver(url=url, REGISTRY_VLLM_MAX_ERROR="0.6"))
        one = asyncio.run(server.complete("net/support/french@prod"))
        wide = asyncio.run(server.complete("net/wide"))
    for ref, found, options in (
        ("net/support/french@1", one, {}),
        ("net/wide", wide, {"rank": 8, "max_error": 0.6}),
    ):
        out = tree.root / ref.replace("/", "-")
        tree.registry.fetch(ref, out, **options)  # type: ignore[arg-type]
        assert weights_in(out) == found


def test_a_folder_is_held_for_as_long_as_its_process_lives(tree: Place, cache: FetchCache) -> None:
    held = Path(tree.registry.fetch("net/support").folder)
    other = Path(tree.registry.fetch("net/support/french").folder)
    command = [sys.executable, "-c", HOLDER, str(held)]
    with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "True\n"
        cache.shrink(keep=other)
        assert held.is_dir()
        holder.kill()
    cache.shrink(keep=other)
    assert not held.exists()
    assert hold(held) is None


def test_a_fetched_folder_is_what_vllms_filesystem_resolver_takes(tree: Place) -> None:
    """Its rule (0.11 to 0.33): a LoRA whose base_model_name_or_path equals the model that vLLM was started with."""
    tree.registry.fetch("net/support/french@prod", tree.root / "adapters" / "french-1")
    config = json.loads((tree.root / "adapters" / "french-1" / "adapter_config.json").read_text())
    assert config["peft_type"] == "LORA"
    assert config["base_model_name_or_path"] == "net/_"
