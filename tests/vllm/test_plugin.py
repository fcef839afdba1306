"""The plugin against vLLM's interface as it was recorded (``interface.json``); `test_real_engine` meets vLLM itself."""

from __future__ import annotations

import asyncio
import builtins
import importlib
import inspect
import json
import pickle
import subprocess
import sys
import tomllib
from abc import ABC, abstractmethod
from contextlib import nullcontext
from http import HTTPStatus
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from registry.errors import (
    AccuracyError,
    InvalidAdapterError,
    NotAllowedError,
    NotFoundError,
    RetractedError,
    UnavailableError,
    UsageError,
)
from registry.vllm import plugin
from registry.vllm.resolver import RegistryResolver
from tests.kit.serving import served
from tests.root import ROOT
from tests.vllm.conftest import Place
from tests.vllm.engine import weights_in

INTERFACE = json.loads((Path(__file__).parent / "interface.json").read_text())


class LoRAResolver(ABC):
    @abstractmethod
    async def resolve_lora(self, base_model_name: str, lora_name: str) -> Any: ...


class Resolvers:
    def __init__(self) -> None:
        self.resolvers: dict[str, Any] = {}

    def register_resolver(self, resolver_name: str, resolver: Any) -> None:
        self.resolvers[resolver_name] = resolver


class LoRARequest:
    lora_name: str
    lora_int_id: int
    lora_path: str

    def __init__(self, lora_name: str, lora_int_id: int, lora_path: str = "") -> None:
        self.__dict__.update(lora_name=lora_name, lora_int_id=lora_int_id, lora_path=lora_path)  # as a struct does


def error_class(name: str, parent: str) -> type[Exception]:
    def made(self: Any, message: str, *rest: Any, **fields: Any) -> None:
        Exception.__init__(self, message)
        self.rest, self.fields = rest, fields

    return type(name, (getattr(builtins, parent),), {"__init__": made})


@pytest.fixture
def resolvers(monkeypatch: pytest.MonkeyPatch) -> Resolvers:
    """A vLLM with nothing but the interface of resolvers."""
    known = Resolvers()
    modules = {name: ModuleType(name) for name in ("vllm", "vllm.lora", "vllm.lora.resolver", "vllm.lora.request")}
    modules["vllm"].__path__ = []
    vars(modules["vllm.lora.resolver"]).update(LoRAResolver=LoRAResolver, LoRAResolverRegistry=known)
    vars(modules["vllm.lora.request"]).update(LoRARequest=LoRARequest)
    for name, module in modules.items():
        monkeypatch.setitem(sys.modules, name, module)
    return known


@pytest.fixture(params=INTERFACE["errors"])
def version(request: pytest.FixtureRequest, resolvers: Resolvers, monkeypatch: pytest.MonkeyPatch) -> str:
    """A version of vLLM, with the errors that it has."""
    del resolvers
    errors = INTERFACE["errors"][request.param]
    if errors:
        module = ModuleType("vllm.exceptions")
        vars(module).update({name: error_class(name, parent) for name, parent in errors.items()})
        monkeypatch.setitem(sys.modules, "vllm.exceptions", module)
    return str(request.param)


def test_the_resolver_has_the_recorded_signature() -> None:
    method = RegistryResolver.resolve_lora
    assert list(inspect.signature(method).parameters) == INTERFACE["LoRAResolver.resolve_lora"]
    assert inspect.iscoroutinefunction(method)


def test_what_the_plugin_calls_is_in_the_recorded_interface() -> None:
    register = inspect.signature(Resolvers.register_resolver).parameters
    assert list(register)[1:] == INTERFACE["LoRAResolverRegistry.register_resolver"]
    assert list(inspect.signature(LoRARequest).parameters) == INTERFACE["LoRARequest"]


def test_vllm_finds_the_plugin_by_its_entry_point(
    tree: Place, resolvers: Resolvers, monkeypatch: pytest.MonkeyPatch
) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    module, _, name = project["entry-points"]["vllm.general_plugins"]["adapter_registry"].partition(":")
    monkeypatch.setenv("REGISTRY_URL", str(tree.root / "registry"))
    monkeypatch.setenv("REGISTRY_VLLM_BASE", "net")
    getattr(importlib.import_module(module), name)()
    (resolver,) = resolvers.resolvers.values()
    assert isinstance(resolver, LoRAResolver)
    found = asyncio.run(resolver.resolve_lora("served/model", "net/support/french@prod"))
    assert isinstance(found, LoRARequest)
    assert found.lora_name.startswith("net/support/french#1-")
    number = found.lora_int_id
    found.lora_int_id = 7  # as vLLM does, for each name that was asked for
    assert found.lora_int_id == number > 7
    sent = pickle.loads(pickle.dumps(found))
    assert type(sent) is LoRARequest
    assert vars(sent) == vars(found)
    out = tree.root / "expected"
    tree.registry.fetch("net/support/french@1", out)
    assert weights_in(found.lora_path) == weights_in(out)


@pytest.mark.parametrize("over_http", [False, True], ids=["folder", "service"])
def test_what_vllm_loads_is_counted_once_and_as_its_own(
    tree: Place, resolvers: Resolvers, monkeypatch: pytest.MonkeyPatch, over_http: bool
) -> None:
    with served(tree.registry) if over_http else nullcontext(str(tree.root / "registry")) as url:
        monkeypatch.setenv("REGISTRY_URL", url)
        monkeypatch.setenv("REGISTRY_VLLM_BASE", "net")
        plugin.register()
        (resolver,) = resolvers.resolvers.values()
        for name in ("net/support/french@prod", "net/support/french@1"):
            asyncio.run(resolver.resolve_lora("served/model", name))
        resolver._registry.close()
    assert tree.registry.deployment.uses is not None
    tree.registry.deployment.uses.write()
    found = tree.registry.show("net/support/french@1").use
    assert found is not None
    assert (found.by_interface, found.tokens) == ({"vllm": 1}, 1)


def test_a_client_sees_the_reason_with_the_status_that_it_means_where_vllm_has_one(version: str) -> None:
    statuses = {
        NotFoundError("There is none."): 404,
        RetractedError("It was taken back."): 404,
        InvalidAdapterError("It has DoRA links.", code="engine_limits"): 400,
        AccuracyError("Not within 1 %."): 400,
        UnavailableError("It does not answer."): 503,
        NotAllowedError("The token is unknown.", code="bad_token"): 503,
        UsageError("REGISTRY_URL is nothing."): 503,
        UsageError("'net/A' is no reference.", code="bad_name"): 400,
    }
    for problem, status in statuses.items():
        made: Any = plugin.Vllm().refusal(problem)
        assert str(problem) in str(made)
        kind = type(made).__name__
        if status == 404 and version in ("0.24.0", "0.33.0"):
            assert kind == "VLLMNotFoundError"
        elif status == 400 and version != "0.11.0":
            assert kind == "VLLMValidationError"
            assert made.fields == {"parameter": "model"}
        elif version == "0.33.0":
            assert kind == "GracefulHTTPError"
            assert made.rest == (HTTPStatus(status),)
        else:
            assert isinstance(made, ValueError) == (status < 500)


def test_malformed_settings_stop_a_vllm_that_was_set_up_for_it_and_no_other(
    resolvers: Resolvers, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("REGISTRY_HTTP_ADDR", ":5000")  # a setting of another program of that name
    plugin.register()
    assert not resolvers.resolvers
    (record,) = caplog.records
    assert "REGISTRY_HTTP_ADDR" in record.message
    monkeypatch.setenv("REGISTRY_VLLM_BASE", "net")
    with pytest.raises(UsageError, match="REGISTRY_HTTP_ADDR"):
        plugin.register()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("REGISTRY_VLLM_BASE", "Net"),
        ("REGISTRY_VLLM_MAX_RANK", "0"),
        ("REGISTRY_VLLM_MAX_RANK", "sixteen"),
        ("REGISTRY_VLLM_MAX_ERROR", "5%"),
        ("REGISTRY_VLLM_MAX_ERROR", "nan"),
        ("REGISTRY_VLLM_MAX_ERROR", "1"),
    ],
)
def test_settings_are_checked_when_vllm_starts(
    resolvers: Resolvers, monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(UsageError, match=name):
        plugin.register()


def test_nothing_of_vllm_or_of_tensors_is_loaded_before_it_is_needed() -> None:
    code = (
        "import sys, registry.vllm.plugin\n"
        "print([name for name in ('vllm', 'torch', 'sqlalchemy', 'transformers', 'fastapi') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, capture_output=True, text=True)
    assert done.stdout.strip() == "[]"
