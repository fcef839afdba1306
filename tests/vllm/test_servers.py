"""The servers of several versions of vLLM, by their own source: ``VLLM_SOURCES`` names a folder that has one of each.

Unpack ``vllm/entrypoints`` of a wheel into ``$VLLM_SOURCES/0.11.0`` and so on. Only the class that holds the table is
real here; what it imports is not needed for that. `test_real_following` runs one version as a whole.
"""

from __future__ import annotations

import asyncio
import importlib.abc
import importlib.machinery
import inspect
import os
import sys
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any
from unittest.mock import MagicMock

import pytest

from registry.vllm.following import Follower
from registry.vllm.inside import Inside
from registry.vllm.resolver import Followed
from tests.vllm.conftest import MakeResolver, Place
from tests.vllm.engine import EngineClient, Request

SOURCES = sorted(Path(os.environ["VLLM_SOURCES"]).iterdir()) if "VLLM_SOURCES" in os.environ else []
PROD = "net/support/french@prod"

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not SOURCES, reason="VLLM_SOURCES names no sources of vLLM; the stub server was tried instead"),
]


class Anything(ModuleType):
    """A module of vLLM that has whatever is imported from it."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return type(name, (), {"__init__": lambda self, *args, **options: None, "inc": lambda self, by: by})


class Finder(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Finds every module below ``vllm``."""

    def find_spec(self, name: str, path: Sequence[str] | None, target: Any = None) -> Any:
        del path, target
        if name.partition(".")[0] == "vllm":
            return importlib.machinery.ModuleSpec(name, self, is_package=True)
        return None

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> ModuleType:
        return Anything(spec.name)

    def exec_module(self, module: ModuleType) -> None:
        """Nothing."""


@pytest.fixture(params=SOURCES, ids=lambda folder: folder.name)
def kind(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """The class of one version."""
    places = ("openai/models/serving.py", "openai/serving_models.py")
    (source,) = [path for one in places if (path := request.param / "vllm/entrypoints" / one).is_file()]
    monkeypatch.setattr(sys, "meta_path", [Finder(), *sys.meta_path])
    try:
        module = ModuleType("serving")
        monkeypatch.setitem(sys.modules, module.__name__, module)  # where dataclasses look for it
        exec(compile(source.read_text(), str(source), "exec"), vars(module))
        vars(module)["LoRARequest"] = Request
        yield module.OpenAIServingModels
    finally:
        for name in [name for name in sys.modules if name.partition(".")[0] == "vllm"]:
            del sys.modules[name]


def test_the_table_of_this_version_is_followed(kind: Any, tree: Place, make_resolver: MakeResolver) -> None:
    resolver = make_resolver()
    found: list[Inside | None] = []

    class Watched:
        async def resolve_lora(self, base_model_name: str, lora_name: str) -> Any:
            del base_model_name
            found.append(Inside.asking())
            return await resolver.resolve_lora("served/model", lora_name)

    vars(sys.modules["serving"]).update(LoRAResolverRegistry=MagicMock(), init_logger=MagicMock(), logger=MagicMock())
    engine: Any = EngineClient(2, 8)
    for name in ("model_config", "renderer", "input_processor", "io_processor"):
        setattr(engine, name, MagicMock())
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()

    def run(work: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(work, loop).result(60)

    try:
        older = {"model_config": MagicMock()} if "model_config" in inspect.signature(kind).parameters else {}
        models = kind(engine_client=engine, base_model_paths=[MagicMock()], **older)
        models.lora_resolvers.append(Watched())
        run(models.resolve_lora(PROD))
        (inside,) = found
        assert inside is not None
        assert inside.models is models
        follower = Follower(inside, Followed(resolver, "net"))
        tree.registry.tag("net/support/french@2", "prod")
        follower.attempt()
        assert models.lora_requests[PROD].lora_name.startswith("net/support/french#2-")
        assert models.lora_requests[PROD].lora_int_id in engine.loaded
        tree.registry.retract("net/support/french@2", reason="Wrong data.")
        follower.attempt()
        assert PROD not in models.lora_requests
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()
