"""A stub of vLLM's OpenAI server, as far as adapters go: it does with a resolver what vLLM 0.33 does.

After ``vllm/entrypoints/openai/models/serving.py`` (a lock for each name, numbers of its own, answers kept by the asked
name), ``vllm/v1/core/kv_cache_utils.py`` (blocks keyed by the adapter's name, in 0.17 to 0.24 by nothing else of it),
and ``vllm/lora/worker_manager.py`` (adapters by number, read from the folder again once they had to leave).
"""

from __future__ import annotations

import asyncio
import hashlib
from collections import OrderedDict, defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from registry.errors import RegistryError
from registry.vllm.inside import Inside


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

    def server(self) -> Inside | None:
        return Inside.asking()


class Resolver(Protocol):
    async def resolve_lora(self, base_model_name: str, lora_name: str) -> Any | None: ...


def weights_in(folder: str | Path) -> str:
    """Which weights a folder holds."""
    return hashlib.sha256((Path(folder) / "adapter_model.safetensors").read_bytes()).hexdigest()


@dataclass
class LoraConfig:
    """What the engine was started with."""

    max_loras: int
    max_cpu_loras: int | None = None


@dataclass
class VllmConfig:
    """Where vLLM keeps it."""

    lora_config: LoraConfig


class DeadEngineError(Exception):
    """The engine died, and with it the whole server."""


class EngineClient:
    """Adapters by number, the least recently used leave. A bad one in a step kills it, one added does not."""

    def __init__(self, slots: int, cpu: int | None = None) -> None:
        self.vllm_config = VllmConfig(LoraConfig(slots, cpu))
        self.loaded: OrderedDict[int, str] = OrderedDict()  # number -> weights
        self.loads = 0
        self.evicted: list[int] = []
        self.refuses: Callable[[Request], bool] = lambda request: False
        self.dead = False

    async def add_lora(self, lora_request: Request) -> bool:
        await asyncio.sleep(0)
        self._load(lora_request)
        return True

    async def list_loras(self) -> set[int]:
        await asyncio.sleep(0)
        return set(self.loaded)

    def step(self, request: Request) -> str:
        """The weights that a step of a request computes with."""
        if self.dead:
            raise DeadEngineError
        try:
            return self._load(request)
        except (OSError, ValueError):
            self.dead = True
            raise

    def _load(self, request: Request) -> str:
        if request.lora_int_id not in self.loaded:
            if self.refuses(request):
                raise ValueError(f"{request.lora_path} is not supported")
            self.loaded[request.lora_int_id] = weights_in(request.lora_path)
            self.loads += 1
            limits = self.vllm_config.lora_config
            if len(self.loaded) > (limits.max_cpu_loras or limits.max_loras):
                self.evicted.append(self.loaded.popitem(last=False)[0])
        self.loaded.move_to_end(request.lora_int_id)
        return self.loaded[request.lora_int_id]


class Server:
    """Answers requests with the weights that it computed with. What the plugin reaches into has vLLM's names."""

    def __init__(
        self, *resolvers: Resolver, model: str = "served/model", slots: int = 2, cpu: int | None = None
    ) -> None:
        self.model = model
        self.resolvers = resolvers
        self.engine_client = EngineClient(slots, cpu)
        self.lora_requests: dict[str, Request] = {}
        self.lora_resolver_lock: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)
        self.asked: list[str] = []  # names that the resolvers were asked for
        self._counter = 0
        self._blocks: dict[tuple[str, str], str] = {}  # adapter's name and prompt -> weights it was computed with
        self.hits = 0

    @property
    def loads(self) -> int:
        return self.engine_client.loads

    async def complete(self, model: str, prompt: str = "once upon a time", *, steps: int = 1) -> str:
        """The weights that the answer was made with; raises KeyError where nobody has the model."""
        if model not in self.lora_requests and await self._resolve(model) is None:
            raise KeyError(model)
        await asyncio.sleep(0)  # vLLM makes tokens of the prompt here: between its two looks into the table
        request = self.lora_requests[model]
        weights = self.engine_client.step(request)
        for _ in range(steps - 1):
            await asyncio.sleep(0.001)
            assert self.engine_client.step(request) == weights, f"{model} is a mixture of weights"
        block = (request.lora_name, prompt)
        self.hits += block in self._blocks
        assert self._blocks.setdefault(block, weights) == weights, f"{model} met a block of other weights"
        return weights

    def unload(self, model: str) -> None:
        """``/v1/unload_lora_adapter``."""
        del self.lora_requests[model]

    async def _resolve(self, model: str) -> Request | None:
        async with self.lora_resolver_lock[model]:
            if model in self.lora_requests:
                return self.lora_requests[model]
            self._counter += 1
            number = self._counter
            for resolver in self.resolvers:
                self.asked.append(model)
                found: Request | None = await resolver.resolve_lora(self.model, model)
                if found is not None:
                    found.lora_int_id = number
                    for one in self.lora_requests.values():  # vLLM takes requests of one name for one adapter
                        assert (one.lora_name == found.lora_name) == (one.lora_int_id == found.lora_int_id)
                    await self.engine_client.add_lora(found)
                    self.lora_requests[model] = found
                    return found
            return None
