"""Full models in folders that hold more, or other things, than save_pretrained writes."""

from __future__ import annotations

import errno
import io
import json
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from registry.errors import InvalidAdapterError, UnavailableError
from registry.services.local import LocalRegistry
from tests.kit import RawTensor, gpt2_base, llama_base, read_model, write_adapter, write_tensors
from tests.kit.fine_tunes import fine_tuned
from tests.services.exact.shop import Shop, same_bits

COUNT = "bn.num_batches_tracked"


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shop]:
    folder = tmp_path_factory.mktemp("strange")
    with closing(LocalRegistry.open(folder / "registry", cache_folder=folder / "cache")) as registry:
        yield Shop(folder, registry)


def test_what_marks_another_kind_of_revision_is_no_file_of_a_model(shop: Shop, tmp_path: Path) -> None:
    """The exact file of another revision in the model's folder is not published in place of the model's own."""
    shop.published("net/sft", fine_tuned(tmp_path / "sft", shop.base))
    shop.registry.fetch("net/sft", tmp_path / "published", kind="published")
    model = fine_tuned(tmp_path / "full", shop.base, seed=41)
    (model.folder / "model.exact").write_bytes((tmp_path / "published/model.exact").read_bytes())
    write_adapter(model.folder, shop.base, ["q_proj"], r=2)
    (model.folder / "training_args.bin").write_bytes(b"pickled")
    (model.folder / "tokenizer.json").write_text("{}")
    answer = shop.registry.publish(model.folder, "net/marked", full=True)
    ref = answer.revision.reference
    assert {file.path for file in shop.registry.show(ref).files} == {"config.json", "model.exact", "tokenizer.json"}
    marks = ["adapter_config.json", "adapter_model.safetensors", "model.exact"]
    assert [one.path for one in answer.left_out] == [*marks, "training_args.bin"]
    near = shop.registry.preview(model.folder, "net/marked", full=True, rank=1)
    assert [one.path for one in near.left_out] == [*marks, "tokenizer.json", "training_args.bin"]
    same_bits(shop.merged(ref), fine_tuned(tmp_path / "alone", shop.base, seed=41).folder)


def test_a_file_of_the_model_that_cant_be_read_is_named(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = fine_tuned(shop.folder / "unreadable", shop.base).folder
    (folder / "tokenizer.json").write_text("{}")
    opened = io.open

    def refusing(file: Any, *args: Any, **named: Any) -> Any:
        if str(file).endswith("tokenizer.json"):
            raise PermissionError(errno.EACCES, "Permission denied", str(file))
        return opened(file, *args, **named)

    monkeypatch.setattr(io, "open", refusing)
    monkeypatch.setattr("builtins.open", refusing)
    refused = shop.refused(folder)
    assert isinstance(refused, UnavailableError)
    assert f"{folder / 'tokenizer.json'} can't be read" in str(refused)


def test_a_tokenizer_above_it_is_history(shop: Shop, tmp_path: Path) -> None:
    lora = write_adapter(tmp_path / "lora", shop.base, ["q_proj"], r=2)
    (lora / "tokenizer.json").write_text('{"of": "the adapter above"}')
    shop.registry.publish(lora, "net/above")
    own = fine_tuned(tmp_path / "own", shop.base, seed=51).folder
    (own / "tokenizer.json").write_text('{"of": "the model"}')
    shop.registry.publish(fine_tuned(tmp_path / "bare", shop.base, seed=52).folder, "net/above/bare", full=True)
    shop.registry.publish(own, "net/above/own", full=True)
    shop.registry.publish(write_adapter(tmp_path / "below", shop.base, ["q_proj"], r=2), "net/above/own/below")
    found = {}
    for name in ("bare", "own", "own/below"):
        out = tmp_path / f"merged-{name.replace('/', '-')}"
        shop.registry.fetch(f"net/above/{name}", out, kind="merged")
        found[name] = (out / "tokenizer.json").read_text() if (out / "tokenizer.json").exists() else None
    assert found == {"bare": None, "own": '{"of": "the model"}', "own/below": '{"of": "the model"}'}


@pytest.mark.parametrize("other", ["wte.weight", "transformer.transformer.wte.weight"])
def test_a_tensor_that_is_there_by_two_names_is_refused(tmp_path: Path, other: str) -> None:
    with closing(LocalRegistry.open(tmp_path / "registry", cache_folder=tmp_path / "cache")) as registry:
        shop = Shop(tmp_path, registry, gpt2_base)
        model = fine_tuned(tmp_path / "sft", shop.base).folder
        tensors = read_model(model)
        more = RawTensor.of(tensors["transformer.wte.weight"].values + 1, "BF16")
        write_tensors(model / "model.safetensors", {other: more, **tensors})
        cases: list[tuple[dict[str, Any], str]] = [({}, "unknown_target"), ({"rank": 2}, "unexpected_tensor")]
        for options, code in cases:
            refused = shop.refused(model, **options)
            assert (refused.code, repr(other) in str(refused)) == (code, True)


def test_a_head_that_is_let_go_needs_a_config_that_ties_it(tmp_path: Path) -> None:
    """Without it, what loads the merged model draws the head at random."""
    with closing(LocalRegistry.open(tmp_path / "registry", cache_folder=tmp_path / "cache")) as registry:
        shop = Shop(tmp_path, registry, tied=True)
        model = fine_tuned(tmp_path / "sft", shop.base).folder
        tensors = read_model(model)
        write_tensors(model / "model.safetensors", {**tensors, "lm_head.weight": tensors["model.embed_tokens.weight"]})
        document = json.loads((model / "config.json").read_text())
        (model / "config.json").write_text(json.dumps(document | {"tie_word_embeddings": False}))
        refused = shop.refused(model)
        assert (refused.code, "tie_word_embeddings false" in str(refused)) == ("tied_partial", True)


def test_counts_and_masks_that_changed_are_kept(tmp_path: Path) -> None:
    """Such as the batches that a BatchNorm has seen; no pair can hold them."""
    with closing(LocalRegistry.open(tmp_path / "registry", cache_folder=tmp_path / "cache")) as registry:
        base = llama_base(tmp_path / "base", dtype="BF16")
        tensors = read_model(base.folder)
        counts = {COUNT: ("I64", (), 8), "mask": ("BOOL", (2, 3), 6), "steps": ("I32", (1,), 4)}
        made = [
            {name: RawTensor(dtype, shape, bytes([value] * size)) for name, (dtype, shape, size) in counts.items()}
            for value in (0, 1)
        ]
        write_tensors(base.folder / "model.safetensors", {**tensors, **made[0]})
        registry.add_base("net", base.folder)
        full = tmp_path / "full"
        write_tensors(full / "model.safetensors", {**tensors, **made[1]})
        (full / "config.json").write_bytes((base.folder / "config.json").read_bytes())
        with pytest.raises(InvalidAdapterError, match="Publish it without --rank and --max-error"):
            registry.publish(full, "net/sft", full=True, rank=2)
        counted = tmp_path / "counted"
        write_tensors(counted / "model.safetensors", {**tensors, **made[0], COUNT: made[1][COUNT]})
        with pytest.raises(InvalidAdapterError, match="nothing was trained"):  # as for a count beside an adapter
            registry.publish(counted, "net/sft", full=True, rank=2)
        registry.publish(full, "net/sft", full=True)
        below = write_adapter(tmp_path / "below", base, ["q_proj"], r=2)
        registry.publish(below, "net/sft/below")
        registry.fetch("net/sft", tmp_path / "merged", kind="merged")
        same_bits(read_model(tmp_path / "merged"), full)
        registry.fetch("net/sft/below", tmp_path / "merged-below", kind="merged", dtype="fp32")
        found = read_model(tmp_path / "merged-below")
        assert {name: found[name] for name in counts} == made[1]


def test_empty_tensors_of_another_dtype_are_kept(tmp_path: Path) -> None:
    with closing(LocalRegistry.open(tmp_path / "registry", cache_folder=tmp_path / "cache")) as registry:
        base = llama_base(tmp_path / "base", dtype="BF16")
        tensors = read_model(base.folder)
        empty = {"extra.empty": RawTensor("BF16", (0, 4), b"")}
        write_tensors(base.folder / "model.safetensors", {**tensors, **empty})
        registry.add_base("net", base.folder)
        wider = {name: RawTensor.of(one.values, "F32") for name, one in tensors.items()}
        for name, kept in {"all": wider, "only": tensors}.items():
            folder = tmp_path / name
            write_tensors(folder / "model.safetensors", {**kept, "extra.empty": RawTensor("F32", (0, 4), b"")})
            (folder / "config.json").write_bytes((base.folder / "config.json").read_bytes())
            registry.publish(folder, f"net/{name}", full=True)
            registry.fetch(f"net/{name}", tmp_path / f"{name}-merged", kind="merged")
            same_bits(read_model(tmp_path / f"{name}-merged"), folder)
        tuned = fine_tuned(tmp_path / "tuned", base, frozen=("proj", "embed", "norm"))
        assert registry.publish(tuned.folder, "net/pairs", full=True, rank=2).extracted is not None
