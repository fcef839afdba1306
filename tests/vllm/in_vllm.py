"""Runs in a Python that has vLLM: what its interface is, and what it says to folders. Prints JSON."""

from __future__ import annotations

import asyncio
import inspect
import json
import sys
from types import SimpleNamespace
from typing import Any

from vllm.lora.peft_helper import PEFTHelper
from vllm.lora.request import LoRARequest
from vllm.lora.resolver import LoRAResolver, LoRAResolverRegistry
from vllm.plugins.lora_resolvers.filesystem_resolver import FilesystemResolver


def names(what: Any) -> list[str]:
    return list(inspect.signature(what).parameters)


def judged(folder: str) -> str:
    """What vLLM says to an adapter before it reads the tensors."""
    try:
        helper = PEFTHelper.from_local_dir(folder, 64)
        helper.validate_legal(SimpleNamespace(max_lora_rank=8, bias_enabled=False))
    except ValueError as problem:
        return str(problem)
    return ""


def main(root: str, names_of_folders: list[str]) -> None:
    files = FilesystemResolver(root)
    found = {
        "LoRAResolver.resolve_lora": names(LoRAResolver.resolve_lora),
        "LoRAResolverRegistry.register_resolver": names(LoRAResolverRegistry.register_resolver),
        "LoRAResolverRegistry.get_supported_resolvers": names(LoRAResolverRegistry.get_supported_resolvers),
        "LoRAResolverRegistry.get_resolver": names(LoRAResolverRegistry.get_resolver),
        "LoRARequest": names(LoRARequest)[:3],
        "judged": {name: judged(f"{root}/{name}") for name in names_of_folders},
        "by folder": [asyncio.run(files.resolve_lora(base, "plain")) is not None for base in ("llama/_", "llama")],
    }
    print(json.dumps(found))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
