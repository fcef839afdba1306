"""docs/coming-from.md: its commands, typed in order, on tiny folders under the names of the page."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

import pytest

from tests.journeys import pages, warm
from tests.kit import llama_base, write_adapter
from tests.kit.full_models import full_model
from tests.kit.hub_folder import HubFolders
from tests.kit.peers import peft_merge
from tests.kit.servers_home import Home
from tests.kit.servers_shared import SharedServers
from tests.root import ROOT


@pytest.mark.slow
def test_what_others_have_is_brought_as_the_page_says(
    tmp_path: Path, own_home: Home, shared_servers: SharedServers
) -> None:
    base = llama_base(tmp_path / "Llama-3.2-1B", dtype="BF16")
    places = [
        "share/loras/support",
        "share/loras/support/french",
        "share/support-v2",
        "from-mlflow/adapter",
        "from-wandb",
    ]
    for seed, place in enumerate([*places, "legal-lora"]):
        write_adapter(tmp_path / place, base, ["q_proj"], r=2, seed=seed)
    peft_merge(base.folder, [tmp_path / "share/loras/support"]).save_pretrained(tmp_path / "share/merged-in-may")
    trained_on = {"base_model_name_or_path": str(tmp_path / "share/merged-in-may")}
    write_adapter(tmp_path / "share/french-0304", base, ["q_proj"], r=2, seed=20, config=trained_on)
    full_model(tmp_path / "share/support-sft", base.folder)
    shutil.copytree(base.folder, tmp_path / "share/Llama-3.2-1B")
    on_the_base = {"base_model_name_or_path": str(tmp_path / "share/Llama-3.2-1B")}
    write_adapter(tmp_path / "share/runs/mail", base, ["o_proj"], r=2, seed=21, config=on_the_base)
    page = pages.read((ROOT / "docs" / "coming-from.md").read_text(encoding="utf-8"))
    with HubFolders() as hub:
        hub.add("acme/legal-lora", tmp_path / "legal-lora")
        environ = {"HOME": str(tmp_path / "home"), "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
        environ["HF_ENDPOINT"] = hub.url
        with warm.commands(own_home, shared_servers.tables(), environ) as lines:
            ran = pages.run(page, tmp_path, environ, before=lines)
    assert pages.differences(page, ran) == []
    dry, real = (one.output for command, one in zip(page.commands, ran, strict=True) if " -r " in command.line)
    assert "planned" in dry
    assert "llama/support/french@1" in real
    assert (tmp_path / "for-the-hub/README.md").is_file()
