"""Stubs of engines over HTTP, which do with adapters what vLLM 0.32 and SGLang do by their source.

vLLM: ``entrypoints/openai/models/serving.py`` (a table of names, a number for each load), ``v1/metrics/loggers.py`` (a
gauge of names with requests), ``v1/worker/gpu_input_batch.py`` (two adapters of one name in a batch are taken for one:
here a fault). SGLang: ``managers/tokenizer_control_mixin.py`` and ``managers/tokenizer_manager.py`` (a lock for which
loads and unloads queue, an unload that waits for the last request, a name that was unloaded and is asked for is loaded
again from where it was), ``lora/lora_registry.py``.

A completion holds its adapter until the test lets it end, and says which weights it was computed with.
"""

from __future__ import annotations

import asyncio
import hashlib
import itertools
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route


def weights_in(folder: str | Path) -> str:
    """Which weights a folder holds."""
    return hashlib.sha256((Path(folder) / "adapter_model.safetensors").read_bytes()).hexdigest()


class Stub:
    """What both have: a server on a thread, and requests that last."""

    def __init__(self) -> None:
        self.process = 1
        self.others: Iterator[int] | None = None  # processes that answer in turn, as behind a balancer
        self.calls: list[str] = []  # loads and unloads, in their order
        self.refused: dict[str, str] = {}  # part of a folder's name -> why it is refused
        self.faults: list[str] = []
        self.hold = False  # requests last until it is False again
        self._port = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._port}"

    def routes(self) -> dict[str, Callable[[Any], Any]]:
        """What is answered to a body, or to None, by path."""
        raise NotImplementedError

    def answering(self) -> int:
        """The process that answers this request."""
        return self.process if self.others is None else next(self.others)

    def restart(self) -> None:
        """All names are forgotten."""
        self.process += 1

    @contextmanager
    def running(self, port: int = 0) -> Iterator[None]:
        def route(answers: Callable[[Any], Any]) -> Callable[[Request], Any]:
            async def answered(request: Request) -> Response:
                found = answers(await request.json() if request.method == "POST" else None)
                status, body = await found if asyncio.iscoroutine(found) else found
                return PlainTextResponse(body, status) if isinstance(body, str) else JSONResponse(body, status)

            return answered

        table = [Route(path, route(answers), methods=["GET", "POST"]) for path, answers in self.routes().items()]
        config = uvicorn.Config(Starlette(routes=table), port=port, log_level="critical", lifespan="off")
        server = uvicorn.Server(config)
        socket = config.bind_socket()
        self._port = socket.getsockname()[1]
        thread = threading.Thread(target=server.run, args=([socket],))
        thread.start()
        while not server.started:  # the socket is bound, but nothing listens before
            time.sleep(0.002)
        try:
            yield
        finally:
            self.hold = False
            server.should_exit = True
            thread.join()
            socket.close()

    def complete(self, name: str) -> tuple[int, Any]:
        """A client's request."""
        answer = httpx.post(f"{self.url}/v1/completions", json={"model": name}, timeout=60)
        return answer.status_code, answer.json()

    async def lasts(self) -> None:
        while self.hold:
            await asyncio.sleep(0.002)


class StubVllm(Stub):
    """vLLM 0.32."""

    def __init__(self) -> None:
        super().__init__()
        self.table: dict[str, tuple[int, str]] = {}
        self.running_now: list[tuple[str, int]] = []
        self.version = "0.32.0"
        self.updating = True
        self.sees = True  # the follower's folder
        self.metrics = ""
        self.servers = 1
        self._numbers = itertools.count(1)
        self._step = 1000.0

    def routes(self) -> dict[str, Callable[[Any], Any]]:
        loads = {"/v1/load_lora_adapter": self.load, "/v1/unload_lora_adapter": self.unload}
        return {
            "/v1/models": lambda _: (200, {"data": self.cards()}),
            "/version": lambda _: (200, {"version": self.version}),
            "/metrics": lambda _: (200, self.measured()),
            "/v1/completions": self.answer,
            **(loads if self.updating else {path: lambda _: (404, {"detail": "Not Found"}) for path in loads}),
        }

    def restart(self) -> None:
        super().restart()
        self.table.clear()

    def cards(self) -> list[dict[str, Any]]:
        loaded = [{"id": name, "root": path, "parent": "llama"} for name, (_, path) in self.table.items()]
        return [{"id": "llama", "root": "/models/llama", "parent": None}, *loaded]

    def measured(self) -> str:
        names = ",".join(dict.fromkeys(name for name, _ in self.running_now))
        self._step += bool(self.running_now)  # a step for each look
        labels = f'max_lora="2",running_lora_adapters="{names}",waiting_lora_adapters=""'
        older = (
            'vllm:lora_requests_info{max_lora="2",running_lora_adapters="net/one@prod",waiting_lora_adapters=""} 9.0'
        )
        started = f"process_start_time_seconds {self.answering()}.5\n" if self.servers == 1 else ""
        return f"{started}{older}\nvllm:lora_requests_info{{{labels}}} {self._step + 0.5}\n{self.metrics}"

    def load(self, body: Any) -> tuple[int, Any]:
        name, path = body["lora_name"], body["lora_path"]
        self.calls.append(f"load {name} {Path(path).name.rpartition('-')[0]}")
        if name in self.table:
            return 400, {"error": {"message": f"The lora adapter '{name}' has already been loaded.", "code": 400}}
        if not self.sees or not Path(path).is_dir():
            return 404, {"error": {"message": f"Loading lora {name} failed: No adapter found for {path}", "code": 404}}
        for part, why in self.refused.items():
            if part in path:
                return 500, {"error": {"message": why, "type": "InternalServerError", "code": 500}}
        self.table[name] = (next(self._numbers), path)
        return 200, "Success"

    def unload(self, body: Any) -> tuple[int, Any]:
        self.calls.append(f"unload {body['lora_name']}")
        if self.table.pop(body["lora_name"], None) is None:
            return 404, {"error": {"message": f"The lora adapter '{body['lora_name']}' cannot be found.", "code": 404}}
        return 200, "Success"

    async def answer(self, body: Any) -> tuple[int, Any]:
        name = body["model"]
        if name not in self.table:
            return 404, {"error": {"message": f"The model `{name}` does not exist.", "code": 404}}
        number, path = self.table[name]
        weights = weights_in(path)
        self.running_now.append((name, number))
        if any(one == name and other != number for one, other in self.running_now):
            self.faults.append(f"two adapters named {name} in a batch")
        await self.lasts()
        if not Path(path).is_dir():
            self.faults.append(f"{path} is gone, and the engine with it")
        self.running_now.remove((name, number))
        return 200, {"model": name, "weights": weights}


class StubWithPlugin(StubVllm):
    """vLLM with the registry's plugin: names are resolved by ``means``, and followed by it if ``follows``."""

    def __init__(self, means: Callable[[str], str]) -> None:
        super().__init__()
        self.means = means
        self.follows = True

    def cards(self) -> list[dict[str, Any]]:
        if self.follows:
            self.table = {name: (0, self.means(name)) for name in self.table}
        given = [{"id": self.given(path), "root": "/cache", "parent": "llama"} for _, path in self.table.values()]
        return [{"id": "llama", "root": "/models/llama", "parent": None}, *given]

    @staticmethod
    def given(reference: str) -> str:
        path, _, number = reference.partition("@")
        return f"{path}#{number}-{'0' * 32}"

    async def answer(self, body: Any) -> tuple[int, Any]:
        name = body["model"]
        self.calls.append(f"ask {name}")
        if name.endswith("/@"):
            return 400, {"error": {"message": f"'{name}' is not a reference of the registry: ..."}}
        if name not in self.table or self.follows:
            reference = self.means(name)
            if reference in self.refused:
                return 400, {"error": {"message": self.refused[reference]}}
            self.table[name] = (0, reference)
        return 200, {"model": self.given(self.table[name][1])}


class StubSglang(Stub):
    """SGLang, as its source has it."""

    def __init__(self) -> None:
        super().__init__()
        self.settings: dict[str, Any] = {"enable_lora": True, "dp_size": 1, "tokenizer_worker_num": 1}
        self.names: dict[str, tuple[str, str]] = {}  # name -> path, weights: they are read at a load
        self.known: dict[str, str] = {}  # lora_ref_cache
        self._uses: dict[str, int] = {}
        self._lock = asyncio.Lock()

    def routes(self) -> dict[str, Callable[[Any], Any]]:
        def info(_: Any) -> tuple[int, Any]:
            return 200, self.settings | {"random_seed": self.answering()}

        return {
            "/server_info": info,
            "/v1/models": lambda _: (200, {"data": self.cards()}),
            "/load_lora_adapter": lambda body: self.load(body["lora_name"], body["lora_path"]),
            "/unload_lora_adapter": lambda body: self.unload(body["lora_name"]),
            "/v1/completions": self.answer,
        }

    def restart(self) -> None:
        super().restart()
        self.names.clear()
        self.known.clear()

    def cards(self) -> list[dict[str, Any]]:
        loaded = [{"id": name, "root": path, "parent": "llama"} for name, (path, _) in self.names.items()]
        return [{"id": "llama", "root": "llama", "parent": None}, *loaded]

    async def load(self, name: str, path: str) -> tuple[int, Any]:
        async with self._lock:
            self.calls.append(f"load {name} {Path(path).name.rpartition('+')[2].rpartition('-')[0]}")
            why = next((why for part, why in self.refused.items() if part in path), None)
            if name in self.names:
                why = f"Failed to load LoRA adapter {name} because it is already loaded"
            elif not Path(path).is_dir():
                why = f"Repo id must be in the form 'repo_name' or 'namespace/repo_name': '{path}'"
            if why is not None:
                return 400, {"success": False, "error_message": why}
            self.names[name] = (path, weights_in(path))
            self.known[name] = path
            return 200, {"success": True, "loaded_adapters": {one: where for one, (where, _) in self.names.items()}}

    async def unload(self, name: str) -> tuple[int, Any]:
        async with self._lock:
            self.calls.append(f"unload {name}")
            if self.names.pop(name, None) is None:
                return 400, {"success": False, "error_message": f"LoRA with name {name} does not exist."}
            while self._uses.get(name):
                await asyncio.sleep(0.002)
            return 200, {"success": True}

    async def answer(self, body: Any) -> tuple[int, Any]:
        name = body["model"]
        if name not in self.names:
            if name not in self.known:
                return 400, {"message": f"Got LoRA adapter that has never been loaded: {name}"}
            status, loaded = await self.load(name, self.known[name])
            if status != 200 and "already loaded" not in loaded["error_message"]:
                return 400, {"message": f"Failed to implicitly load LoRA adapter {name}: {loaded['error_message']}"}
        if name not in self.names:
            return 400, {"message": f"The following requested LoRA adapters are not loaded: {name}"}
        weights = self.names[name][1]
        self._uses[name] = self._uses.get(name, 0) + 1
        await self.lasts()
        self._uses[name] -= 1
        return 200, {"model": name, "weights": weights}
