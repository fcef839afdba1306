"""The page Use it: what it offers for each reference, and why a tool can't. Its lines run in tests/clients."""

from __future__ import annotations

import html
import re
from collections.abc import Iterator
from dataclasses import replace

import httpx
import pytest

from registry.app import service_app
from registry.engines.rules import ENGINES
from tests.kit import plain_base, write_adapter
from tests.kit.bases import add_tokenizer, llama_base
from tests.kit.library import Library, running, service, with_tokens
from tests.kit.pages import PEOPLE, Visitor
from tests.kit.recipes import Recipe, write_recipes
from tests.kit.shelf import Shelf
from tests.kit.variants import MAKERS, VARIANTS

__all__ = ["service"]


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Library]:
    """``llama/a`` (two revisions); ``wide/a`` of rank 20 and ``llama/dora``, of which engines were asked;
    ``tiny/one/two``, which no adapter equals; ``llama/off``, retracted.
    """
    shelf = Shelf(tmp_path_factory.mktemp("library"))
    base = shelf.base("llama", llama_base)
    publish, check = shelf.registry.publish, shelf.registry.check
    recipes = [Recipe(("q_proj",), r=4), Recipe(("q_proj",), r=4, seed=1), Recipe(("q_proj",), dora=True, seed=2)]
    first, again, dora = write_recipes(shelf.root / "links", base, recipes)
    publish(first, "llama/a", tags=["prod"])
    publish(again, "llama/a")
    publish(dora, "llama/dora")
    wide = shelf.base("wide", plain_base, shapes={"one.weight": (40, 40)})
    publish(write_adapter(shelf.folder(), wide, ["one"], r=20), "wide/a")
    check("wide/a", engine="vllm")
    for engine in ("vllm", "peft"):
        check("llama/dora", engine=engine)
    publish(write_adapter(shelf.root / "off", base, ["q_proj"], seed=9), "llama/off")
    shelf.registry.retract("llama/off@1", reason="wrong data")
    tiny = shelf.base("tiny", MAKERS["attention"])
    unequal = [VARIANTS["attention"]["plain"], replace(VARIANTS["attention"]["beside"], seed=1)]
    for folder, path in zip(write_recipes(shelf.folder(), tiny, unequal), ("tiny/one", "tiny/one/two"), strict=True):
        publish(folder, path)
    yield with_tokens(shelf)
    shelf.close()


@pytest.fixture(scope="module")
def visitor(service: str, library: Library) -> Iterator[Visitor]:
    with Visitor(service) as made:
        made.sign_in(library.secrets["reader"])
        yield made


def use(visitor: Visitor, reference: str) -> str:
    answer = visitor.get(f"/use/{reference}")
    assert answer.status_code == 200, answer.text
    return html.unescape(answer.text)


def section(text: str, name: str) -> str:
    found = re.search(rf'<section id="{name}">(.*?)</section>', text, flags=re.DOTALL)
    assert found is not None
    return found[1]


@pytest.mark.parametrize(
    ("reference", "revision"),
    [("llama/a", "main"), ("llama/a@prod", "prod"), ("llama/a@1", "r1"), ("llama/a@2", "r2")],
)
def test_lines_name_this_very_reference(visitor: Visitor, reference: str, revision: str) -> None:
    text = use(visitor, reference)
    for name in ("cli", "python"):
        assert re.search(rf"fetch[ (\"]+{reference}[ \"]", section(text, name))
    for name in ("peft", "transformers"):
        assert f'"llama/a", revision="{revision}"' in section(text, name)
        assert "AutoModelForCausalLM" in section(text, name)
    assert f"/resolve/{revision}/{{adapter_config.json,adapter_model.safetensors}}" in section(text, "curl")
    assert f'"model": "{reference}"' in section(text, "vllm")
    assert f'href="/use/{reference}" aria-current="page"' in text


def test_a_digest_is_kept_and_its_number_named_where_a_digest_is_no_name(visitor: Visitor, library: Library) -> None:
    revision = library.registry.show("llama/a@1").revision
    assert revision is not None
    text = use(visitor, f"llama/a@{revision.digest[:20]}")
    assert f"registry fetch llama/a@{revision.digest[:20]} " in text
    assert 'revision="r1"' in text


def test_names_that_may_move_are_offered_beside_the_number(visitor: Visitor) -> None:
    def offered(reference: str) -> list[str]:
        return re.findall(r'href="/use/([^"]*)"[^>]*>[^<]*(?:newest|@)', use(visitor, reference))

    assert offered("llama/a@1") == ["llama/a@prod", "llama/a@1"]
    assert offered("llama/a") == ["llama/a", "llama/a@2"]


def test_the_token_is_a_variable_and_never_a_token(visitor: Visitor, library: Library) -> None:
    text = use(visitor, "llama/a")
    assert library.secrets["reader"] not in text
    assert "reg_" not in text
    assert text.count("$REGISTRY_TOKEN") + text.count('environ["REGISTRY_TOKEN"]') >= 4


def test_where_nobody_needs_a_token_none_is_spoken_of(library: Library) -> None:
    with running(service_app(library.registry, "read", public_url="https://registry.example/team")) as address:
        text = html.unescape(httpx.get(f"{address}/use/llama/a", headers=PEOPLE).text)
    assert "REGISTRY_TOKEN" not in text
    assert "https://registry.example/team/hf-lora/llama/a/resolve/" in text
    assert "export HF_ENDPOINT=https://registry.example/team/hf\n" in text


def test_vllm_is_started_with_a_rank_that_it_can_have(visitor: Visitor) -> None:
    assert "--max-lora-rank 32" in section(use(visitor, "wide/a"), "vllm")  # above the default, which is no reason
    assert "--max-lora-rank 8" in section(use(visitor, "llama/a"), "vllm")


def test_why_an_engine_can_not(visitor: Visitor) -> None:
    text = use(visitor, "llama/dora")
    vllm = section(text, "vllm")
    assert f"vLLM {ENGINES['vllm'].version} can't load it: dora (it refuses them)." in vllm
    assert "<code>" not in vllm
    assert "merged" in vllm
    assert "from_pretrained" in section(text, "peft")
    unasked = section(use(visitor, "llama/a"), "vllm")
    assert "registry check llama/a@2 --engine vllm" in unasked
    assert "vllm serve" in unasked


def test_a_path_that_no_adapter_equals_is_had_merged(visitor: Visitor) -> None:
    text = use(visitor, "tiny/one/two")
    for name in ("peft", "vllm"):
        assert "no single PEFT adapter equals this path" in section(text, name)
        assert "<pre" not in section(text, name)
    assert "registry fetch tiny/one/two --as merged" in section(text, "cli")
    assert "/hf/tiny/one.two/resolve/main/{config.json,model.safetensors}" in section(text, "curl")


def test_a_retracted_revision_is_not_used(visitor: Visitor) -> None:
    text = use(visitor, "llama/off@1")
    assert "wrong data" in text
    assert "<pre" not in text.partition("<footer")[0]


def test_the_tokenizer_comes_along_where_there_is_one(
    visitor: Visitor, library: Library, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("spoken")
    base = llama_base(folder / "base", seed=3)
    add_tokenizer(base.folder)
    library.registry.add_base("spoken", base.folder)
    library.registry.publish(write_adapter(folder / "a", base, ["q_proj"]), "spoken/a")
    assert 'tokenizer = AutoTokenizer.from_pretrained("spoken/a", revision="main")' in use(visitor, "spoken/a")
    assert "okenizer" not in use(visitor, "llama/a")


def test_what_is_no_revision_or_is_hidden(service: str, visitor: Visitor, library: Library) -> None:
    assert visitor.get("/use/llama").status_code == 400
    assert visitor.get("/use/llama/none").status_code == 404
    token = library.registry.create_token("reader", name="of dora", scopes=["llama/dora"]).secret
    with Visitor(service) as scoped:
        scoped.sign_in(token)
        assert scoped.get("/use/llama/dora").status_code == 200
        assert scoped.get("/use/llama/a").status_code == 404
