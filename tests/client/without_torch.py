"""A client in a process where nothing heavy can be imported.

Run with the address, the folder of an adapter, a folder to fill, and the file for what was found.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

HEAVY = {"torch", "numpy", "safetensors", "transformers", "sqlalchemy", "alembic", "boto3", "botocore", "fastapi",
         "starlette", "uvicorn", "psycopg", "prometheus_client", "regex"}  # fmt: skip


class Without:
    """A finder of modules that finds nothing heavy."""

    def __init__(self, finder: Any) -> None:
        self._finder = finder

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> Any:
        return None if name.partition(".")[0] in HEAVY else self._finder.find_spec(name, path, target)


def work(url: str, adapter: Path, out: Path) -> dict[str, Any]:
    """Publish, browse and fetch; and what can't be done without torch."""
    import registry
    from registry.errors import RegistryError

    answers: dict[str, Any] = {}
    client = registry.connect(url)
    published = client.publish(adapter, "net/one", tags=["prod"])
    answers["published"] = published.revision.reference
    answers["tree"] = [node.path for root in client.tree().roots for node in root.children]
    answers["shown"] = client.show("net/one@prod").share_of_model
    answers["fetched"] = {
        kind: client.fetch("net/one", out / kind, kind=kind).rendering for kind in ("published", "lora", "merged")
    }
    answers["verified"] = {kind: client.verify(out / kind).equal for kind in answers["fetched"]}
    with client.artifact("net/one") as artifact:
        answers["read"] = len(artifact.file("adapter_model.safetensors").read(0, 8))
        try:
            next(iter(artifact.tensors()))
        except RegistryError as error:
            answers["tensors"] = [error.code, str(error)]
    try:
        client.fetch("net/one", out / "here", kind="merged", base_dir=adapter)
    except RegistryError as error:
        answers["base_dir"] = [error.code, str(error)]
    client.close()
    return answers


def command(url: str) -> list[Any]:
    """The command line starts here, too."""
    from registry.cli.program import run

    return [
        run(["--url", url, "tree"]),
        run(["--url", url, "whoami", "--json"]),
        run(["--url", url, "show", "net/absent"]),
    ]


def main() -> None:
    if "--really" not in sys.argv:
        sys.meta_path[:] = [Without(finder) for finder in sys.meta_path]
    url, adapter, out, answer = sys.argv[1:5]
    answers = work(url, Path(adapter), Path(out))
    answers["exits"] = command(url)
    answers["loaded"] = sorted(HEAVY & {name.partition(".")[0] for name in sys.modules})
    Path(answer).write_text(json.dumps(answers))


if __name__ == "__main__":
    main()
