"""vLLM itself, on the CPU, in a process of its own, with the plugin: ``VLLM_PYTHON`` names a Python that has it."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from tests.root import ROOT

PYTHON: Final = os.environ.get("VLLM_PYTHON", "")
PROMPT: Final = [3, 1, 4, 1, 5, 9, 2, 6] * 5  # longer than a block, so that the prefix cache has something
START: Final = 600  # seconds that vLLM may take until it answers
METADATA: Final = {
    "METADATA": "Metadata-Version: 2.1\nName: adapter-registry\nVersion: 0\n",
    "entry_points.txt": "[vllm.general_plugins]\nadapter_registry = adapter_registry.vllm.plugin:register\n",
}


@dataclass
class Vllm:
    """A running server."""

    url: str
    process: subprocess.Popen[bytes]
    log: Path

    def ask(self, path: str, body: dict[str, Any] | None = None) -> tuple[int, Any]:
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.url + path, data, {"Content-Type": "application/json"})
        try:
            with urllib.request.urlopen(request, timeout=120) as answer:
                text = answer.read().decode()
                return answer.status, json.loads(text) if text.startswith("{") else text
        except urllib.error.HTTPError as refused:
            with refused:
                return refused.code, json.loads(refused.read())

    def complete(self, model: str, prompt: list[int] = PROMPT, tokens: int = 1) -> tuple[int, Any]:
        return self.ask(
            "/v1/completions",
            {
                "model": model,
                "prompt": prompt,
                "max_tokens": tokens,
                "logprobs": 5,
                "temperature": 0,
                "ignore_eos": True,
                "return_tokens_as_token_ids": True,
            },
        )

    def logprobs(self, model: str) -> dict[int, float]:
        status, answer = self.complete(model)
        assert status == 200, answer
        return numbered(answer["choices"][0]["logprobs"]["top_logprobs"][0])

    def said(self) -> str:
        """Its log."""
        return self.log.read_text()


def numbered(most: dict[str, float]) -> dict[int, float]:
    """Log-probabilities by the number of the token."""
    return {int(name.removeprefix("token_id:")): value for name, value in most.items()}


@contextmanager
def vllm_of(room: Path, url: str | None, *options: str, **settings: str) -> Iterator[Vllm]:
    """vLLM on the model in ``room/base``, with the plugin for the registry at ``url``; None: as it is."""
    installed = room / "metadata" / "adapter_registry-0.dist-info"
    installed.mkdir(parents=True, exist_ok=True)
    for name, text in METADATA.items() if url is not None else ():
        (installed / name).write_text(text)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    always = "--enable-lora --max-lora-rank 8 --enforce-eager --skip-tokenizer-init --dtype float32 "
    always += f"--host 127.0.0.1 --port {port} --enable-prefix-caching"
    environ = {name: value for name, value in os.environ.items() if not name.startswith(("REGISTRY_", "PYTHON"))}
    environ |= {
        "PYTHONPATH": f"{installed.parent}{os.pathsep}{ROOT}",
        **({} if url is None else {"REGISTRY_URL": url, "REGISTRY_VLLM_BASE": "llama", "REGISTRY_VLLM_MAX_RANK": "8"}),
        "REGISTRY_CACHE_DIR": str(room / "cache"),
        "VLLM_ALLOW_RUNTIME_LORA_UPDATING": "1",
        "VLLM_CPU_KVCACHE_SPACE": "1",
        "VLLM_CPU_OMP_THREADS_BIND": "nobind",
        "VLLM_NO_USAGE_STATS": "1",
        "VLLM_LOGGING_LEVEL": "DEBUG",  # it tells which adapters are loaded
        "HF_HUB_OFFLINE": "1",
        **settings,
    }
    command = [PYTHON, "-m", "vllm.entrypoints.cli.main", "serve", str(room / "base"), *always.split(), *options]
    with (room / "vllm.log").open("wb") as log:
        process = subprocess.Popen(command, cwd=room, env=environ, stdout=log, stderr=subprocess.STDOUT)
        try:
            running = Vllm(f"http://127.0.0.1:{port}", process, room / "vllm.log")
            wait(running)
            yield running
        finally:
            process.terminate()
            process.wait(60)


def wait(running: Vllm) -> None:
    deadline = time.monotonic() + START
    while running.process.poll() is None and time.monotonic() < deadline:
        try:
            if running.ask("/health")[0] == 200:
                return
        except OSError:
            time.sleep(1)
    raise AssertionError(running.said()[-4000:])
