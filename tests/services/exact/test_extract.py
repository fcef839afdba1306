"""A full model as the best adapter over its parent: what is published, what it gives merged, and what is refused."""

from __future__ import annotations

import errno
import io
import json
import os
import re
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from registry.errors import (
    AccuracyError,
    ConflictError,
    InvalidAdapterError,
    NotFoundError,
    RegistryError,
    UsageError,
)
from registry.operations.registry import Registry
from registry.schemas import Published
from registry.schemas.artifacts import ExtractedModule, Extraction
from registry.services.local import LocalRegistry
from registry.tensors.extraction.extract import Scratch
from tests.kit import RawTensor, llama_base, read_model, read_tensors, write_adapter, write_tensors
from tests.kit.floats import Array, round_once
from tests.kit.full_models import full_model, least_error
from tests.kit.sending import request_of
from tests.kit.serving import ServedRegistry
from tests.kit.variants import MAKERS

WEIGHTS = "model.safetensors"
NEAR = 5e-7  # of values of about 1 that were made of factors in fp32
OPTIONS = {"BF16": "bf16", "F16": "fp16", "F32": "fp32"}


class Shop:
    """A base net, and net/support on it."""

    def __init__(self, folder: Path, registry: Any, **options: Any) -> None:
        self.folder, self.registry = folder, registry
        self.base = llama_base(folder / "base", **({"dtype": "BF16"} | options))
        registry.add_base("net", self.base.folder)
        self.support = write_adapter(folder / "support", self.base, ["q_proj", "up_proj"], r=2, size=0.1, seed=5)
        registry.publish(self.support, "net/support")

    def refused(self, folder: Path, path: str = "net/other", **options: Any) -> RegistryError:
        with pytest.raises(RegistryError) as caught:
            self.registry.publish(folder, path, full=True, **({"rank": 2} | options))
        return caught.value


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shop]:
    folder = tmp_path_factory.mktemp("shop")
    with closing(LocalRegistry.open(folder / "registry", cache_folder=folder / "cache")) as registry:
        yield Shop(folder, registry)


@pytest.fixture(scope="module")
def trained(shop: Shop) -> dict[str, RawTensor]:
    """Of a model that was trained from the base, in ``full``."""
    return full_model(shop.folder / "full", shop.base.folder, shards=2)


def changed(after: Mapping[str, RawTensor], before: Mapping[str, Array]) -> dict[str, Array]:
    return {name: one.values - before[name] for name, one in after.items()}


def merged(registry: Registry, ref: str, folder: Path) -> dict[str, Array]:
    registry.fetch(ref, folder, kind="merged", dtype="fp32")
    return {name: one.values for name, one in read_model(folder).items()}


def weights(folder: Path) -> dict[str, Array]:
    return {name: one.values for name, one in read_model(folder).items()}


def errors_of(answer: Published) -> dict[str, float]:
    assert answer.extracted is not None
    return {one.module: one.error for one in answer.extracted.modules}


@pytest.mark.slow_on("gpt", "opt", "conv", "attention", "declared", "tied")
@pytest.mark.parametrize("kind", sorted(MAKERS))
def test_at_full_rank_every_kind_of_layer_is_the_full_model(kind: str, tmp_path: Path) -> None:
    with closing(LocalRegistry.open(tmp_path / "registry", cache_folder=tmp_path / "cache")) as registry:
        base = MAKERS[kind](tmp_path / "base", dtype="F32")
        registry.add_base("net", base.folder)
        wanted = full_model(tmp_path / "full", base.folder)
        answer = registry.publish(tmp_path / "full", "net/sft", full=True, rank=1000)
        found = merged(registry, "net/sft", tmp_path / "merged")
        assert found.keys() == wanted.keys()
        for name, one in wanted.items():
            if one.dtype == "F32":
                assert np.abs(found[name] - one.values).max() <= NEAR
        assert answer.extracted is not None
        assert answer.extracted.error < 1e-7
        assert answer.extracted.unchanged == 0


def test_each_module_is_the_best_of_its_rank_and_its_error_is_that_of_the_merged_weights(
    shop: Shop, trained: dict[str, RawTensor], tmp_path: Path
) -> None:
    answer = shop.registry.publish(shop.folder / "full", "net/sft", full=True, rank=3, svd="full")
    before, after = weights(shop.base.folder), merged(shop.registry, "net/sft", tmp_path / "merged")
    told = errors_of(answer)
    assert {one.rank for one in answer.extracted.modules} == {3}
    for name, delta in changed(trained, before).items():
        if delta.ndim == 1:
            assert np.array_equal(after[name], trained[name].values)  # a norm, kept whole
            continue
        error = np.linalg.norm(trained[name].values - after[name]) / np.linalg.norm(delta)
        # merged in fp32 sums, while the pair's error is exact
        assert error == pytest.approx(told[name.removesuffix(".weight")], rel=1e-5)
        assert told[name.removesuffix(".weight")] == pytest.approx(
            least_error(delta, 3) / float(np.linalg.norm(delta)), rel=1e-9
        )
    assert answer.revision.parent == "net"
    assert answer.revision.parent_known_by == "assumed"
    assert shop.registry.show("net/sft").extracted == answer.extracted


def test_an_error_gives_each_module_the_lowest_rank(shop: Shop, trained: dict[str, RawTensor], tmp_path: Path) -> None:
    answer = shop.registry.publish(shop.folder / "full", "net/within", full=True, max_error=0.3)
    before = weights(shop.base.folder)
    for one in answer.extracted.modules:
        delta = trained[f"{one.module}.weight"].values - before[f"{one.module}.weight"]
        size = float(np.linalg.norm(delta))
        ranks = [rank for rank in range(1, min(delta.shape) + 1) if least_error(delta, rank) <= 0.3 * size]
        assert one.rank == ranks[0]
        assert one.error <= 0.3
    assert len({one.rank for one in answer.extracted.modules}) > 1
    assert answer.extracted.svd == "full"


def test_a_parent_is_its_exact_weights_and_what_only_rounding_changed_is_left_out(shop: Shop, tmp_path: Path) -> None:
    exact = {name: one.values for name, one in shop.base.reference([shop.support]).items()}
    folder = tmp_path / "support"
    shop.registry.fetch("net/support", folder, kind="merged")  # in bf16
    (folder / "registry-receipt.json").rename(tmp_path / "receipt.json")
    trained = full_model(tmp_path / "full", folder, trained=lambda name: "layers.1.mlp.up" in name, dtype="BF16")
    answer = shop.registry.publish(
        tmp_path / "full", "net/support/more", full=True, rank=2, receipt=tmp_path / "receipt.json", svd="full"
    )
    (one,) = answer.extracted.modules
    name = "model.layers.1.mlp.up_proj"
    delta = trained[f"{name}.weight"].values - exact[f"{name}.weight"]
    assert one.module == name
    assert one.energy == pytest.approx(float(np.sum(delta**2)), rel=1e-9)
    assert one.error == pytest.approx(least_error(delta, 2) / float(np.linalg.norm(delta)), rel=1e-7)
    assert answer.extracted.values == ()
    assert answer.revision.parent_known_by == "receipt"
    assert answer.extracted.parent == answer.parent_digest


@pytest.mark.parametrize("dtype", ["BF16", "F16", "F32"])
def test_the_parent_itself_is_refused_as_this_registry_and_others_merge_it(
    shop: Shop, dtype: str, tmp_path: Path
) -> None:
    exact = {name: round_once(one.values, dtype) for name, one in shop.base.reference([shop.support]).items()}
    full_model(tmp_path / "base", shop.base.folder, trained=lambda _: False, dtype=dtype)
    told = shop.refused(tmp_path / "base")
    assert told.code == "no_change"
    assert "equals net (" in str(told)
    (tmp_path / "base" / WEIGHTS).unlink()
    write_tensors(tmp_path / "base" / WEIGHTS, {name: RawTensor.of(one, dtype) for name, one in exact.items()})
    assert shop.refused(tmp_path / "base", "net/support/same").code == "no_change"
    shop.registry.fetch("net/support", tmp_path / "m", kind="merged", dtype=OPTIONS[dtype])
    told = shop.refused(tmp_path / "m", "net/support/same")
    assert told.code == "no_change"
    assert "net/support@1" in str(told)


def test_the_same_model_is_the_same_revision(shop: Shop, trained: dict[str, RawTensor]) -> None:
    first = shop.registry.publish(shop.folder / "full", "net/same", full=True, rank=2)
    again = shop.registry.publish(shop.folder / "full", "net/same", full=True, rank=2)
    assert (first.created, again.created) == (True, False)
    assert again.revision.digest == first.revision.digest
    assert again.extracted == first.extracted
    found = shop.registry.preview(shop.folder / "full", "net/same", full=True, rank=2)
    assert found.reference == "net/same@1"
    assert found.extracted == first.extracted


def test_names_with_a_prefix_and_tensors_that_are_tied(tmp_path: Path) -> None:
    with closing(LocalRegistry.open(tmp_path / "registry", cache_folder=tmp_path / "cache")) as registry:
        shop = Shop(tmp_path, registry, tied=True)
        body = full_model(tmp_path / "body", shop.base.folder, rename=lambda name: name.removeprefix("model."))
        whole = full_model(tmp_path / "both", shop.base.folder)
        both = read_tensors(tmp_path / "both" / WEIGHTS)
        write_tensors(tmp_path / "both" / WEIGHTS, {**both, "lm_head.weight": both["model.embed_tokens.weight"]})
        one = registry.publish(tmp_path / "body", "net/body", full=True, rank=2)
        two = registry.publish(tmp_path / "both", "net/both", full=True, rank=2)
        assert one.extracted == two.extracted
        assert [part.module for part in one.extracted.modules if "layers" not in part.module] == ["model.embed_tokens"]  # type: ignore[union-attr]
        assert "lm_head.weight" not in merged(registry, "net/both", tmp_path / "merged")
        assert body.keys() != whole.keys()
        apart = {**both, "lm_head.weight": RawTensor.of(both["model.embed_tokens.weight"].values + 0.5, "BF16")}
        write_tensors(tmp_path / "both" / WEIGHTS, apart)
        three = registry.publish(tmp_path / "both", "net/apart", full=True, rank=1000)
        assert {"lm_head", "model.embed_tokens"} <= errors_of(three).keys()
        found = merged(registry, "net/apart", tmp_path / "apart")
        for name in ("lm_head.weight", "model.embed_tokens.weight"):
            assert np.abs(found[name] - apart[name].values).max() <= NEAR


def test_the_head_of_another_task_comes_along_and_the_one_that_is_not_there_stays(shop: Shop, tmp_path: Path) -> None:
    full_model(tmp_path / "full", shop.base.folder, without=["lm_head.weight"])
    tensors = read_tensors(tmp_path / "full" / WEIGHTS)
    head = RawTensor.of(np.arange(48.0).reshape(3, 16), "BF16")
    write_tensors(tmp_path / "full" / WEIGHTS, {**tensors, "score.weight": head})
    answer = shop.registry.publish(tmp_path / "full", "net/judge", full=True, rank=2)
    assert "score.weight" in answer.extracted.values
    found = merged(shop.registry, "net/judge", tmp_path / "merged")
    assert np.array_equal(found["score.weight"], head.values)
    assert np.array_equal(found["lm_head.weight"], weights(shop.base.folder)["lm_head.weight"])


def _pickled(folder: Path) -> None:
    (folder / WEIGHTS).rename(folder / "pytorch_model.bin")


def _quantised(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "quantization_config": {"quant_method": "bitsandbytes"}}))


def _with(change: Callable[[dict[str, RawTensor]], dict[str, RawTensor]]) -> Callable[[Path], None]:
    def write(folder: Path) -> None:
        write_tensors(folder / WEIGHTS, change(read_tensors(folder / WEIGHTS)))

    return write


def _resized(name: str, rows: int) -> Callable[[Path], None]:
    def change(tensors: dict[str, RawTensor]) -> dict[str, RawTensor]:
        old = tensors[name]
        return {**tensors, name: RawTensor.of(np.zeros((rows, *old.shape[1:])), old.dtype)}

    return _with(change)


def _not_a_number(tensors: dict[str, RawTensor], name: str = "model.layers.0.mlp.up_proj.weight") -> Any:
    values = tensors[name].values.copy()
    values.flat[-1] = np.nan
    return {**tensors, name: RawTensor.of(values, "BF16")}


EMBEDDING = "model.embed_tokens.weight"
NORM = "model.norm.weight"
BROKEN: dict[str, tuple[Callable[[Path], None], str]] = {
    "only pickles": (_pickled, r"only as pickles, which are never read\. Load the model"),
    "quantised": (_quantised, r"quantised weights.*before it was quantised"),
    "missing": (_with(lambda held: {n: one for n, one in held.items() if n != NORM}), f"lacks the tensor '{NORM}'"),
    "grown": (_resized(EMBEDDING, 44), r"grown vocabulary: 'model.embed_tokens.weight' has 44 rows, and 40 in net"),
    "shrunk": (_resized(EMBEDDING, 30), r"shape \[30, 16\], which is \[40, 16\] in net"),
    "not a number": (_with(_not_a_number), r"'model.layers.0.mlp.up_proj.weight' of the full model holds NaN"),
    "no norm": (_with(lambda held: _not_a_number(held, NORM)), f"'{NORM}' of the full model holds NaN"),
    "another": (_with(lambda held: {f"h.{n}": one for n, one in enumerate(held.values())}), "another architecture"),
    "more": (
        _with(lambda held: {**held, "model.extra.weight": held[NORM]}),
        "'model.extra.weight', which net has no",
    ),
}
CODES = [
    "pickle",
    "quantised_base",
    "incomplete_model",
    "grown_vocabulary",
    "shape_mismatch",
    "non_finite",
    "non_finite",
]
CODES += ["architecture", "unexpected_tensor"]


@pytest.mark.parametrize(("name", "code"), list(zip(BROKEN, CODES, strict=True)))
def test_what_is_no_full_model_of_the_base_is_refused_by_name(shop: Shop, name: str, code: str, tmp_path: Path) -> None:
    full_model(tmp_path / "full", shop.base.folder)
    spoil, sentence = BROKEN[name]
    spoil(tmp_path / "full")
    told = shop.refused(tmp_path / "full")
    assert isinstance(told, InvalidAdapterError)
    assert told.code == code
    assert re.search(sentence, str(told))


def test_an_adapter_and_no_folder_at_all(shop: Shop, tmp_path: Path) -> None:
    told = shop.refused(shop.support)
    assert told.code == "adapter_as_base"
    assert "Publish it without --full" in str(told)
    assert isinstance(shop.refused(tmp_path / "nothing"), NotFoundError)


def test_options_that_mean_nothing(shop: Shop, trained: dict[str, RawTensor]) -> None:
    full = shop.folder / "full"
    for options, sentence in (
        ({"rank": None, "svd": "full"}, "give --rank N or --max-error E too"),
        ({"max_error": 0.1}, "give one of them"),
        ({"rank": 0}, "--rank must be 1 or more"),
        ({"rank": None, "max_error": 1.0}, "--max-error must be more than 0"),
        ({"svd": "lanczos"}, "--svd is randomised or full"),
        ({"find_parent": True}, "a full model names none"),
        ({"skip_parent_check": True, "parent": "net"}, "a full model names none"),
    ):
        told = shop.refused(full, **options)
        assert isinstance(told, UsageError)
        assert sentence in str(told)
    with pytest.raises(UsageError, match="give --full too"):
        shop.registry.publish(full, "net/other", rank=2)
    assert isinstance(shop.refused(full, rank=None, max_error=1e-9), AccuracyError)
    assert isinstance(shop.refused(full, "net"), UsageError)
    assert isinstance(shop.refused(full, parent="net/support@1"), ConflictError)


def test_a_report_about_another_parent_or_other_pairs_is_refused(shop: Shop, tmp_path: Path) -> None:
    made = request_of(shop.support, "net/report")
    fitting = ExtractedModule(module="model.layers.0.self_attn.q_proj", rank=2, energy=1.0, error=0.5)
    base = shop.registry.resolve("net").digest
    for parent, module, kind in (
        (base, fitting, None),
        ("sha256:" + "0" * 64, fitting, ConflictError),
        (base, fitting.model_copy(update={"rank": 3}), InvalidAdapterError),
        (base, fitting.model_copy(update={"module": "lm_head"}), InvalidAdapterError),
    ):
        report = Extraction(parent=parent, rank=2, error=0.5, modules=(module,))
        request = made.with_request(extracted=report).request
        if kind is None:
            assert shop.registry.plan_publish(request).existing is None
        else:
            with pytest.raises(kind):
                shop.registry.plan_publish(request)


def test_nothing_is_left_of_a_full_model_but_its_revision(
    shop: Shop, trained: dict[str, RawTensor], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    shop.registry.publish(shop.folder / "full", "net/clean", full=True, rank=1)
    shop.refused(shop.folder / "full", "net/clean", rank=None, max_error=1e-9)
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_is_named(
    shop: Shop, trained: dict[str, RawTensor], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where bytes are written no earlier than when the file of the factors is closed."""

    class Full(io.FileIO):
        def write(self, data: Any, /) -> int:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    class FullScratch(Scratch):
        def __init__(self, path: Path) -> None:
            super().__init__(path)
            self._file.close()
            self._file = io.BufferedWriter(Full(path, "w"), 1 << 20)

    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr("registry.services.extraction.Scratch", FullScratch)
    told = shop.refused(shop.folder / "full", "net/no-space")
    assert (told.code, str(tmp_path) in str(told)) == ("disk_full", True)


def test_a_rebased_revision_has_no_report(shop: Shop, trained: dict[str, RawTensor], tmp_path: Path) -> None:
    shop.registry.publish(write_adapter(tmp_path / "a", shop.base, ["q_proj"], r=1, seed=6), "net/turn")
    full_model(tmp_path / "full", shop.base.folder, trained=lambda name: "v_proj" in name)
    shop.registry.publish(tmp_path / "full", "net/turn/sft", full=True, rank=1)
    shop.registry.publish(write_adapter(tmp_path / "b", shop.base, ["q_proj"], r=1, seed=7), "net/turn")
    moved = shop.registry.rebase("net/turn/sft", "net/turn@2")
    assert shop.registry.show("net/turn/sft@1").extracted is not None
    assert shop.registry.show(moved.revision.reference).extracted is None


@pytest.mark.slow
def test_over_http_with_several_revisions_and_a_copy_that_has_the_report(tmp_path: Path) -> None:
    local = LocalRegistry.open(tmp_path / "registry", cache_folder=tmp_path / "kept")
    with (
        closing(ServedRegistry(local, tmp_path / "cache")) as remote,
        closing(LocalRegistry.open(tmp_path / "other", cache_folder=tmp_path / "cache-2")) as other,
    ):
        shop = Shop(tmp_path, remote)
        full_model(tmp_path / "full", shop.base.folder)
        here = local.preview(tmp_path / "full", "net/sft", full=True, rank=3)
        there = remote.publish(tmp_path / "full", "net/sft", full=True, rank=3)
        assert there.revision.digest == here.digest
        assert there.extracted == here.extracted == remote.show("net/sft").extracted
        remote.publish(tmp_path / "full", "net/sft", full=True, rank=2)
        full_model(tmp_path / "child", tmp_path / "full", seed=2)
        told = shop.refused(tmp_path / "child", "net/sft/child")
        assert told.code == "parent_ambiguous"
        assert "net/sft@2, net/sft@1" in str(told)
        assert shop.refused(tmp_path / "child", "net/sft/child", parent="net/support@1").code == "parent_mismatch"
        child = remote.publish(tmp_path / "child", "net/sft/child", full=True, rank=2, parent="net/sft@2")
        assert child.revision.parent == "net/sft@2"
        remote.copy("net/sft/child", other)
        assert other.show("net/sft/child").extracted == child.extracted
        assert other.show("net/sft/child").revision.digest == child.revision.digest  # type: ignore[union-attr]
