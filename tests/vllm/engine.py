"""A stub of vLLM's OpenAI server, as far as adapters go: it does with a resolver what vLLM 0.33 does.

After ``vllm/entrypoints/openai/models/serving.py`` (a lock for each name, numbers of its own, answers kept by the asked
name), ``vllm/v1/core/kv_cache_utils.py`` (blocks keyed by the adapter's name, in 0.17 to 0.24 by nothing else of it),
and ``vllm/lora/worker_manager.py`` (adapters by number, read from the folder again once they had to leave).
"""

from __future__ import annotations

import asyncio
import hashlib
from collections import OrderedDict, defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from registry.errors import RegistryError


@dataclass
class Request:
    """What the stub takes for a ``LoRARequest``."""

    lora_name: str
    lora_int_id: int
    lora_path: str

    def __post_init__(self) -> None:
        assert self.lora_int_id >= 1
        assert self.lora_path

    def __setattr__(self, name: str, value: object) -> None:
        """As of `registry.vllm.plugin`: the number stays."""
        if name != "lora_int_id" or not hasattr(self, name):
            super().__setattr__(name, value)


class RefusedRequestError(Exception):
    """What a client of the stub gets: the problem that the registry had."""

    def __init__(self, problem: RegistryError) -> None:
        super().__init__(str(problem))
        self.problem = problem


class StubVllm:
    """`registry.vllm.plugin.Vllm` without vLLM."""

    def request(self, name: str, number: int, folder: str) -> Request:
        return Request(name, number, folder)

    def refusal(self, problem: RegistryError) -> Exception:
        return RefusedRequestError(problem)


class Resolver(Protocol):
    async def resolve_lora(self, base_model_name: str, lora_name: str) -> Any | None: ...


def weights_in(folder: str | Path) -> str:
    """Which weights a folder holds."""
    return hashlib.sha256((Path(folder) / "adapter_model.safetensors").read_bytes()).hexdigest()


class Server:
    """Answers requests with the weights that it computed with."""

    def __init__(self, *resolvers: Resolver, model: str = "served/model", slots: int = 2) -> None:
        self.model = model
        self.resolvers = resolvers
        self.requests: dict[str, Request] = {}
        self.asked: list[str] = []  # names that the resolvers were asked for
        self._locks: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)
        self._counter = 0
        self._loaded: OrderedDict[int, str] = OrderedDict()  # number -> weights
        self._slots = slots
        self._blocks: dict[tuple[str, str], str] = {}  # adapter's name and prompt -> weights it was computed with
        self.hits = 0
        self.loads = 0

    async def complete(self, model: str, prompt: str = "once upon a time") -> str:
        """The weights that the answer was made with; raises KeyError where nobody has the model."""
        request = await self._resolve(model)
        if request is None:
            raise KeyError(model)
        weights = self._load(request)
        block = (request.lora_name, prompt)
        self.hits += block in self._blocks
        assert self._blocks.setdefault(block, weights) == weights, f"{model} met a block of other weights"
        return weights

    def unload(self, model: str) -> None:
        """``/v1/unload_lora_adapter``."""
        del self.requests[model]

    async def _resolve(self, model: str) -> Request | None:
        async with self._locks[model]:
            if model in self.requests:
                return self.requests[model]
            self._counter += 1
            number = self._counter
            for resolver in self.resolvers:
                self.asked.append(model)
                found: Request | None = await resolver.resolve_lora(self.model, model)
                if found is not None:
                    found.lora_int_id = number
                    for one in self.requests.values():  # vLLM takes requests of one name for one adapter
                        assert (one.lora_name == found.lora_name) == (one.lora_int_id == found.lora_int_id)
                    self._load(found)
                    self.requests[model] = found
                    return found
            return None

    def _load(self, request: Request) -> str:
        if request.lora_int_id not in self._loaded:
            self._loaded[request.lora_int_id] = weights_in(request.lora_path)
            self.loads += 1
            if len(self._loaded) > self._slots:
                self._loaded.popitem(last=False)
        self._loaded.move_to_end(request.lora_int_id)
        return self._loaded[request.lora_int_id]
