"""The command line in a process that lacks what Windows lacks. Run with an address, a token, an adapter, a folder."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

# Tried on Windows by those who make them; what of the standard library they use looks at the system when imported.
import anyio  # noqa: F401
import blake3  # noqa: F401
import httpx  # noqa: F401
import jinja2  # noqa: F401
import platformdirs  # noqa: F401
import pydantic  # noqa: F401
import rich.console
import typer  # noqa: F401

from tests.kit import windows


def work(url: str, token: str, adapter: str, out: Path) -> dict[str, Any]:
    """What each command ends with; two of them fill what is there, empty or to be replaced."""
    import registry
    from registry.cli.program import run
    from registry.client.addresses import Credentials

    (out / "empty").mkdir(parents=True)
    commands = {
        "help": ["--help"],
        "login": ["login", url, "--token", token],
        "whoami": ["whoami"],
        "tree": ["tree"],
        "publish": ["publish", adapter, "net/one"],
        "publish again": ["publish", adapter, "net/one"],
        "merged": ["fetch", "net/one", "--as", "merged", "-o", str(out / "merged")],
        "into an empty folder": ["fetch", "net/one", "--as", "lora", "-o", str(out / "empty")],
        "replaced": ["fetch", "net/one", "--as", "published", "--force", "-o", str(out / "empty")],
        "into the cache": ["fetch", "net/one"],
        "from the cache": ["fetch", "net/one"],
        "verify": ["verify", str(out / "merged")],
        "nothing": ["show", "net/absent"],
        "by its own": ["fetch", "net/one", "--as", "merged", "--base-dir", str(out), "-o", str(out / "own")],
        "a folder": ["--url", str(out / "folder"), "publish", adapter, "net/one"],
        "serve": ["serve"],
        "env": ["env"],
        "events": ["events", "--json"],
    }
    found: dict[str, Any] = {}
    for name, words in commands.items():
        found[name] = run(words)
        for file in Credentials.of_user().folder.glob("*.json"):
            windows.open_to_all(file)
    with registry.connect() as team, team.artifact("net/one") as artifact:
        found["read"] = len(artifact.file("adapter_model.safetensors").read(0, 8))
    found["logout"] = run(["logout"])
    return found


def main() -> None:
    rich.console.Console().print("")
    windows.pretend()
    url, token, adapter, out, answer = sys.argv[1:]
    found = work(url, token, adapter, Path(out))
    found["litter"] = sorted(str(one.name) for one in Path(out).iterdir())
    Path(answer).write_text(json.dumps(found), encoding="utf-8")


if __name__ == "__main__":
    main()
