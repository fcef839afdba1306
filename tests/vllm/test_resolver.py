"""A stub engine drives the resolver as vLLM's server does: real registry, real files, a moved tag, what is refused."""

from __future__ import annotations

import asyncio
import errno
import json
import logging
import shutil
import threading
from collections import Counter
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

import pytest

from registry.errors import RegistryError
from registry.folders.output import fill
from registry.folders.receipts import read_receipt
from registry.folders.staging import FetchCache
from registry.operations.registry import Registry
from registry.settings import read_settings
from registry.vllm.resolver import RegistryResolver
from tests.kit.recipes import Recipe
from tests.vllm.conftest import MakeResolver, Place
from tests.vllm.engine import RefusedRequestError, Server, StubVllm, weights_in


def run(work: Coroutine[Any, Any, str]) -> str:
    return asyncio.run(work)


def refused(server: Server, model: str) -> RegistryError:
    with pytest.raises(RefusedRequestError) as caught:
        run(server.complete(model))
    return caught.value.problem


def weights(tree: Place, ref: str, **options: Any) -> str:
    """The weights that a reference means, fetched elsewhere."""
    out = tree.root / "expected"
    shutil.rmtree(out, ignore_errors=True)
    tree.registry.fetch(ref, out, **options)
    return weights_in(out)


def test_a_reference_of_any_form_is_served_as_what_it_means(tree: Place, make_resolver: MakeResolver) -> None:
    server = Server(make_resolver())
    digest = tree.registry.resolve("net/support/french@1").digest
    for model, meant in {
        "net/support/french": 2,
        "net/support/french@prod": 1,
        "net/support/french@1": 1,
        f"net/support/french@{digest}": 1,
        f"net/support/french@{digest[:15]}": 1,
    }.items():
        assert run(server.complete(model)) == weights(tree, f"net/support/french@{meant}"), model
        given = server.lora_requests[model]
        receipt = read_receipt(Path(given.lora_path))
        assert given.lora_name == f"net/support/french#{meant}-{receipt.rendering.removeprefix('sha256:')[:32]}"
    assert server.loads == 2  # the four names of one revision are one adapter to vLLM
    assert run(server.complete("net/support@1")) == weights(tree, "net/support@1")


def test_the_name_that_vllm_shows_can_be_asked_for(tree: Place, make_resolver: MakeResolver) -> None:
    server = Server(make_resolver())
    first = run(server.complete("net/support/french@prod"))
    shown = server.lora_requests["net/support/french@prod"].lora_name
    tree.registry.tag("net/support/french@2", "prod")
    assert run(server.complete(shown)) == first
    assert server.lora_requests[shown].lora_name == shown
    assert run(server.complete(f"{shown}~2")) == first  # as earlier versions named it
    other = shown[:-32] + "0" * 32
    problem = refused(server, other)
    assert problem.code == "not_found"
    assert "net/support/french@1" in str(problem)


def test_a_moved_tag_reaches_vllm_once_the_name_is_unloaded_and_meets_no_old_block(
    tree: Place, make_resolver: MakeResolver
) -> None:
    server = Server(make_resolver(), slots=1)
    before = run(server.complete("net/support/french@prod"))
    old = server.lora_requests["net/support/french@prod"]
    tree.registry.tag("net/support/french@2", "prod")
    assert run(server.complete("net/support/french@prod")) == before  # vLLM keeps what the name meant
    assert run(server.complete("net/support/french@2")) == weights(tree, "net/support/french@2")  # at once, by number
    server.unload("net/support/french@prod")
    after = run(server.complete("net/support/french@prod"))
    assert after == weights(tree, "net/support/french@2") != before
    new = server.lora_requests["net/support/french@prod"]
    assert (new.lora_name, new.lora_path) != (old.lora_name, old.lora_path)
    assert weights_in(old.lora_path) == before  # requests under way may still need it
    assert server.hits == 2  # the same bytes meet their own blocks, by whatever name


def test_a_name_has_one_number_for_ever(tree: Place, make_resolver: MakeResolver) -> None:
    """vLLM activates one adapter for two of one name, and fails or answers wrongly for the other's number."""
    server = Server(make_resolver())
    given = set()
    for name in ("net/support@1", "net/support", "net/support@1"):
        run(server.complete(name))
        given.add((server.lora_requests[name].lora_name, server.lora_requests[name].lora_int_id))
        server.unload(name)
    assert len(given) == 1
    assert server.loads == 1


def test_numbers_belong_to_the_bytes(tree: Place, make_resolver: MakeResolver) -> None:
    resolver = make_resolver()

    async def number(model: str) -> int:
        found: Any = await resolver.resolve_lora("served", model)
        return int(found.lora_int_id)

    first = asyncio.run(number("net/support/french@1"))
    assert asyncio.run(number("net/support/french@prod")) == first
    assert asyncio.run(number("net/support/french@2")) != first
    assert 1 << 20 <= first < 2**31  # others are given those that vLLM counts up, from 1


class Other:
    """Another resolver, which has nothing and counts."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    async def resolve_lora(self, base_model_name: str, lora_name: str) -> None:
        self.asked.append(lora_name)


def test_names_of_others_are_left_to_others(tree: Place, make_resolver: MakeResolver) -> None:
    names = ["plain-name", "Org/Model", "other/adapter", "net", "../net/support", "nets/a@", "other/a@", "net-2/A"]
    other = Other()
    server = Server(make_resolver(url="http://127.0.0.1:9"), other)  # nobody listens: nothing may be asked there
    for name in names:
        with pytest.raises(KeyError):
            run(server.complete(name))
    assert other.asked == names


@pytest.mark.parametrize("name", ["net/support@", "net/a#1-x", "net/Support", "net@1", "net/support@prod@1", "net/"])
def test_a_malformed_reference_of_the_base_is_refused_with_the_reason(
    tree: Place, make_resolver: MakeResolver, name: str
) -> None:
    other = Other()
    problem = refused(Server(make_resolver(url="http://127.0.0.1:9"), other), name)
    assert problem.code in {"bad_name", "usage"}
    assert f"{name!r} is not a reference" in str(problem)
    assert other.asked == []


def test_an_engine_that_nothing_ties_to_a_base_has_no_adapters_and_says_so_once(
    tree: Place, make_resolver: MakeResolver, caplog: pytest.LogCaptureFixture
) -> None:
    server = Server(make_resolver(REGISTRY_VLLM_BASE=""), model="meta-llama/Llama-3.2-1B")
    for _ in range(2):
        with pytest.raises(KeyError):
            run(server.complete("net/support"))
    (record,) = caplog.records
    assert "REGISTRY_VLLM_BASE" in record.message
    assert "meta-llama/Llama-3.2-1B" in record.message


def test_a_bad_receipt_of_the_model_refuses_the_names_of_its_base_and_no_others(
    tree: Place, make_resolver: MakeResolver, caplog: pytest.LogCaptureFixture
) -> None:
    model = tree.root / "model"
    model.mkdir()
    (model / "registry-receipt.json").write_text("{}")
    other = Other()
    server = Server(make_resolver(), other, model=str(model))
    with pytest.raises(KeyError):
        run(server.complete("other/adapter"))
    assert other.asked == ["other/adapter"]
    assert "not a receipt" in str(refused(server, "net/support"))
    assert other.asked == ["other/adapter"]
    caplog.clear()
    server = Server(make_resolver(REGISTRY_VLLM_BASE=""), other, model=str(model))
    with pytest.raises(KeyError):
        run(server.complete("net/support"))
    assert other.asked == ["other/adapter", "net/support"]
    (record,) = caplog.records
    assert "not a receipt" in record.message


def test_what_the_system_refuses_is_said() -> None:
    def opens() -> Registry:
        raise OSError(errno.EMFILE, "Too many open files", "/cache")

    environ = {"REGISTRY_VLLM_BASE": "net"}
    problem = refused(Server(RegistryResolver(StubVllm(), opens, read_settings(environ), environ)), "net/support@1")
    assert problem.code == "unavailable"
    assert "net/support@1 can't be computed on vLLM's machine: Too many open files (/cache)" in str(problem)


@pytest.mark.parametrize(
    ("recipe", "word"),
    [
        (Recipe(("one",), replaced=("head",)), "the whole module head"),
        (Recipe(("one",), dora=True, replaced=("head",)), "the whole module head"),
        (Recipe(("one",), bias="lora_only"), "biases"),
        (Recipe(("one",), tokens={"emb": (1, 2)}), "rows of emb"),
    ],
)
def test_what_vllm_can_not_load_is_refused_with_the_reason(
    tree: Place, make_resolver: MakeResolver, recipe: Recipe, word: str
) -> None:
    tree.publish("net/odd", recipe)
    problem = refused(Server(make_resolver(REGISTRY_VLLM_MAX_ERROR="0.5")), "net/odd")
    assert problem.code == "engine_limits"
    assert word in str(problem)
    assert "--as merged" in str(problem)


def test_dora_is_refused_or_within_the_allowed_error_the_nearest_lora(tree: Place, make_resolver: MakeResolver) -> None:
    tree.publish("net/dora", Recipe(("one",), r=2, dora=True))
    problem = refused(Server(make_resolver()), "net/dora")
    assert problem.code == "engine_limits"
    assert "DoRA" in str(problem)
    assert "--as merged" in str(problem)
    assert "REGISTRY_VLLM_MAX_ERROR" in str(problem)
    server = Server(make_resolver(REGISTRY_VLLM_MAX_ERROR="0.95"))
    assert run(server.complete("net/dora")) == weights(tree, "net/dora", rank=8, max_error=0.95, plain=True)
    report = read_receipt(Path(server.lora_requests["net/dora"].lora_path)).truncation
    assert report is not None
    assert 0 < report.total.relative_frobenius <= 0.95
    problem = refused(Server(make_resolver(REGISTRY_VLLM_MAX_ERROR="0.001")), "net/dora")
    assert problem.code == "accuracy"
    for words in ("net/dora@1 has DoRA", "at most rank 8", "REGISTRY_VLLM_MAX_ERROR", "the error is 0."):
        assert words in str(problem)


def test_a_rank_over_the_limit_is_refused_with_the_reason(tree: Place, make_resolver: MakeResolver) -> None:
    tree.publish("net/wide", Recipe(("one", "two"), r=5, rank_pattern={"two": 9}))
    problem = refused(Server(make_resolver()), "net/wide")
    assert problem.code == "engine_limits"
    for words in ("net/wide@1", "rank 9", "at most 8", "--max-lora-rank", "REGISTRY_VLLM_MAX_ERROR"):
        assert words in str(problem)
    assert run(Server(make_resolver(REGISTRY_VLLM_MAX_RANK="9")).complete("net/wide")) == weights(tree, "net/wide")


def test_a_rank_over_the_limit_is_truncated_within_the_allowed_error(
    tree: Place, make_resolver: MakeResolver, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    tree.publish("net/wide", Recipe(("one", "two"), r=9))
    server = Server(make_resolver(REGISTRY_VLLM_MAX_ERROR="0.6"))
    assert run(server.complete("net/wide")) == weights(tree, "net/wide", rank=8, max_error=0.6)
    folder = Path(server.lora_requests["net/wide"].lora_path)
    config = json.loads((folder / "adapter_config.json").read_text())
    assert max(config["r"], *config["rank_pattern"].values(), 0) <= 8
    report = read_receipt(folder).truncation
    assert report is not None
    assert 0 < report.total.relative_frobenius <= 0.6
    (told,) = [record.message for record in caplog.records if "truncated" in record.message]
    assert "from rank 9 to 8" in told
    assert str(folder) in told


def test_an_error_that_can_not_be_kept_is_refused(tree: Place, make_resolver: MakeResolver) -> None:
    tree.publish("net/wide", Recipe(("one", "two"), r=16))
    problem = refused(Server(make_resolver(REGISTRY_VLLM_MAX_ERROR="0.001")), "net/wide")
    assert problem.code == "accuracy"
    for words in ("net/wide@1", "rank 16", "REGISTRY_VLLM_MAX_ERROR", "the error is 0."):
        assert words in str(problem)


def test_what_is_within_the_limit_is_exact_whatever_error_is_allowed(tree: Place, make_resolver: MakeResolver) -> None:
    server = Server(make_resolver(REGISTRY_VLLM_MAX_ERROR="0.9"))
    assert run(server.complete("net/support/french")) == weights(tree, "net/support/french")


def test_what_does_not_exist_is_refused_with_the_registrys_words(tree: Place, make_resolver: MakeResolver) -> None:
    server = Server(make_resolver())
    assert refused(server, "net/suport").code == "not_found"
    assert refused(server, "net/support/french@9").code == "not_found"
    tree.registry.retract("net/support/french@1", reason="Wrong data.")
    problem = refused(server, "net/support/french@prod")
    assert problem.code == "retracted"
    assert "Wrong data." in str(problem)


def test_what_is_published_later_is_found(tree: Place, make_resolver: MakeResolver) -> None:
    server = Server(make_resolver())
    refused(server, "net/support/late")
    tree.publish("net/support/late", Recipe(("two",), seed=9))
    assert run(server.complete("net/support/late")) == weights(tree, "net/support/late")


def test_a_service_that_is_not_there_is_said(tree: Place, make_resolver: MakeResolver) -> None:
    problem = refused(Server(make_resolver(url="http://127.0.0.1:9")), "net/support")
    assert problem.code == "unavailable"


def test_the_same_asked_for_at_once_is_written_once(
    tree: Place, make_resolver: MakeResolver, monkeypatch: pytest.MonkeyPatch
) -> None:
    written: Counter[str] = Counter()
    guard = threading.Lock()

    def counted(place: Path, *rest: Any, **options: Any) -> Any:
        with guard:
            written[place.name] += 1
        return fill(place, *rest, **options)

    monkeypatch.setattr("registry.transfer.fetched_folder.fill", counted)
    server = Server(make_resolver(), slots=20)

    async def many() -> list[str]:
        names = ["net/support/french@prod", "net/support/french@1", "net/support@1"]
        return await asyncio.gather(*(server.complete(name) for name in names * 6))

    answers = asyncio.run(many())
    assert answers[0::3] == answers[1::3]
    assert len(set(answers)) == 2
    assert sorted(written.values()) == [1, 1]
    assert len(server.asked) == 3


def test_what_vllm_has_stays_in_the_cache_until_the_process_ends(
    tree: Place, make_resolver: MakeResolver, cache: FetchCache
) -> None:
    server = Server(make_resolver(), slots=1)
    first = run(server.complete("net/support/french@prod"))
    tree.registry.fetch("net/support@1")
    last = cache.folder / tree.registry.fetch("net/support/french@2").rendering.removeprefix("sha256:")
    cache.shrink(keep=last)  # no room at all: another program makes place for its own
    kept = {entry.name for entry in cache.folder.iterdir()}
    assert kept == {last.name, Path(server.lora_requests["net/support/french@prod"].lora_path).name}
    run(server.complete("net/support@1"))  # the first has to leave the engine, and is read from its folder again
    assert run(server.complete("net/support/french@prod")) == first
