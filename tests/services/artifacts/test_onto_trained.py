"""``--onto trained``: a path merged onto the 4 bit weights that it was trained on, made again from those stored."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from registry.errors import UsageError
from registry.folders.receipts import receipt_in
from registry.schemas.artifacts import FourBits
from registry.services.local import LocalRegistry
from registry.tensors.quantised.trained import FourBitWeight
from tests.kit import Base, gpt2_base, llama_base, plain_base, write_adapter
from tests.kit.quantised_models import NF4_CONFIG, nf4, quantised
from tests.kit.registries import ON_HTTP, opened

HOW = "nf4:64:double"
QUANTISED = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


@pytest.fixture(params=["embedded", ON_HTTP])
def registry(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Any]:
    with opened(request, tmp_path) as kept:
        yield kept


@pytest.fixture
def base(tmp_path: Path) -> Base:
    return llama_base(tmp_path / "base", dtype="BF16", hidden=32, mlp=48, shards=2)


def stored(folder: Path) -> dict[str, torch.Tensor]:
    return {name: tensor for file in sorted(folder.glob("*.safetensors")) for name, tensor in load_file(file).items()}


def in_training(weight: torch.Tensor, said: str) -> torch.Tensor:
    flat = weight.reshape(-1)
    made = FourBitWeight(FourBits.parse(said), flat.numel(), lambda first, last: flat[first:last].float())
    return made.values(0, flat.numel()).to(weight.dtype).view_as(weight)


def delta(adapter: Path, module: str) -> torch.Tensor:
    factors = load_file(adapter / "adapter_model.safetensors")
    a, b = (factors[f"base_model.model.{module}.lora_{side}.weight"].double() for side in "AB")
    return 2 * b @ a  # alpha 8, rank 4


def test_all_linear_modules_are_those_of_training(registry: Any, base: Base, tmp_path: Path) -> None:
    adapter = write_adapter(tmp_path / "a", base, ["q_proj"])
    registry.add_base("tiny", base.folder)
    registry.publish(adapter, "tiny/a", trained_quantised=HOW)
    plain = registry.fetch("tiny/a", tmp_path / "plain", kind="merged")
    made = registry.fetch("tiny/a", tmp_path / "trained", kind="merged", onto="trained")
    found, before = stored(tmp_path / "trained"), stored(base.folder)
    for name, tensor in before.items():
        module = name.removesuffix(".weight")
        if module.rpartition(".")[2] not in QUANTISED:
            assert torch.equal(found[name], tensor), name
        elif module.endswith("q_proj"):
            exact = in_training(tensor, HOW).double() + delta(adapter, module)
            assert torch.equal(found[name], exact.float().to(torch.bfloat16)), name
        else:
            assert torch.equal(found[name], in_training(tensor, HOW)), name
    assert any("4 bits makes of them (nf4:64:double)" in notice for notice in made.notices)
    assert not any("4 bits makes" in notice for notice in plain.notices)
    receipt, other = receipt_in(tmp_path / "trained"), receipt_in(tmp_path / "plain")
    assert str(receipt.plan.onto) == HOW
    assert (receipt.options.onto, other.options.onto) == ("trained", None)
    assert receipt.rendering != other.rendering
    assert "onto" not in other.plan.model_dump()
    assert registry.verify(tmp_path / "trained").equal
    on_this_machine = registry.fetch("tiny/a", tmp_path / "here", kind="merged", onto="trained", base_dir=base.folder)
    assert [one.blake3 for one in on_this_machine.files] == [one.blake3 for one in made.files]


def test_any_range_is_that_of_the_whole(local: LocalRegistry, base: Base, tmp_path: Path) -> None:
    local.add_base("tiny", base.folder)
    adapter = write_adapter(
        tmp_path / "a", base, ["model.layers.0.mlp.down_proj"]
    )  # of one file, and the other as made
    local.publish(adapter, "tiny/a", trained_quantised="fp4:128:double")
    with local.artifact("tiny/a", kind="merged", onto="trained") as artifact:
        for file in artifact.files.values():
            whole = bytes(file.read(0, file.size))
            for first, last in [(first, min(file.size, first + 301)) for first in range(1, file.size, 1001)]:
                assert bytes(file.read(first, last)) == whole[first:last]


def test_a_path_goes_onto_what_its_links_say(local: LocalRegistry, base: Base, tmp_path: Path) -> None:
    local.add_base("tiny", base.folder)
    first, second = (write_adapter(tmp_path / name, base, ["q_proj"], seed=seed) for seed, name in enumerate("ab"))
    local.publish(first, "tiny/a")
    local.publish(second, "tiny/a/b", parent="tiny/a@1", trained_quantised=HOW)
    made = local.fetch("tiny/a/b", tmp_path / "out", kind="merged", onto="trained")
    assert any("tiny/a@1 did not say so" in notice for notice in made.notices)
    name = "model.layers.0.self_attn.q_proj"
    whole = in_training(stored(base.folder)[f"{name}.weight"], HOW).double() + delta(first, name) + delta(second, name)
    found = stored(tmp_path / "out")[f"{name}.weight"].double()
    assert (found - whole).abs().max() <= whole.abs().max() * 2**-8
    local.publish(second, "tiny/a/b/c", parent="tiny/a/b@1", trained_quantised="fp4")
    with pytest.raises(UsageError, match=r"tiny/a/b@1 was trained on nf4:64:double and tiny/a/b/c@1 on fp4:64"):
        local.fetch("tiny/a/b/c", tmp_path / "c", kind="merged", onto="trained")


def test_what_the_training_skipped_stays(local: LocalRegistry, base: Base, tmp_path: Path) -> None:
    card = "The following `bitsandbytes` quantization config was used during training:\n- quant_method: bitsandbytes\n"
    card += "- load_in_4bit: True\n- bnb_4bit_quant_type: nf4\n- bnb_4bit_use_double_quant: True\n"
    card += "- llm_int8_skip_modules: ['lm_head', 'model.layers.1', 'up_proj']\n"
    adapter = write_adapter(tmp_path / "a", base, ["q_proj"], fill="zero")
    (adapter / "README.md").write_text(card)
    local.add_base("tiny", base.folder)
    local.publish(adapter, "tiny/a")
    local.fetch("tiny/a", tmp_path / "out", kind="merged", onto="trained")
    found, before = stored(tmp_path / "out"), stored(base.folder)
    changed = {name for name, tensor in before.items() if not torch.equal(found[name], tensor)}
    assert changed == {
        name for name in before if "layers.0." in name and "up_proj" not in name and name.endswith("_proj.weight")
    }


def test_refused_by_name(local: LocalRegistry, base: Base, tmp_path: Path) -> None:
    local.add_base("tiny", base.folder)
    adapter = write_adapter(tmp_path / "a", base, ["q_proj"])
    local.publish(adapter, "tiny/a")
    local.publish(adapter, "tiny/b", trained_quantised=HOW)
    with pytest.raises(UsageError, match=r"Nothing says that tiny/a@1 was trained on quantised weights"):
        local.fetch("tiny/a", kind="merged", onto="trained")
    for kind in ("lora", "published"):
        with pytest.raises(UsageError, match=rf"--onto needs --as merged, not --as {kind}"):
            local.fetch("tiny/b", kind=kind, onto="trained")
    gpt2 = gpt2_base(tmp_path / "gpt2")
    local.add_base("gpt2", gpt2.folder)
    local.publish(write_adapter(tmp_path / "c", gpt2, ["c_fc"]), "gpt2/a", trained_quantised=HOW)
    with pytest.raises(UsageError, match=r"don't hold its weight as one matrix \(out, in\)"):
        local.fetch("gpt2/a", kind="merged", onto="trained")
    net = plain_base(tmp_path / "net", {"a.weight": (24, 16)})
    local.add_base("net", net.folder)
    local.publish(write_adapter(tmp_path / "d", net, ["a"]), "net/a", trained_quantised=HOW)
    with pytest.raises(UsageError, match="needs to know which modules are linear"):
        local.fetch("net/a", kind="merged", onto="trained")


def test_the_figure_is_the_distance_of_the_two_merges(registry: Any, tmp_path: Path) -> None:
    base = llama_base(tmp_path / "base", dtype="F32", hidden=32, mlp=48)  # nothing is rounded to 16 bits after it
    targets = ["q_proj", "down_proj", "lm_head"]  # of which the last is not quantised
    adapter = write_adapter(tmp_path / "a", base, targets, size=0.01)
    registry.add_base("tiny", base.folder)
    registry.publish(adapter, "tiny/a", trained_quantised=HOW)
    registry.publish(adapter, "tiny/plain")
    (link,) = registry.stats("tiny/a").links
    assert registry.stats("tiny/plain").path.relative_quantisation is None
    for out, onto in (("stored", None), ("trained", "trained")):
        registry.fetch("tiny/a", tmp_path / out, kind="merged", dtype="fp32", onto=onto)
    plain, trained = stored(tmp_path / "stored"), stored(tmp_path / "trained")
    moved, added = 0.0, 0.0
    for module in link.delta.modules:
        name = f"{module.module}.weight"
        apart = (plain[name].double() - trained[name].double()).norm().item()
        if module.module == "lm_head":
            assert (apart, module.relative_quantisation) == (0, None)
            continue
        assert module.relative_quantisation == pytest.approx(apart / module.frobenius, rel=5e-4)
        moved, added = moved + apart**2, added + module.energy
    assert link.delta.relative_quantisation == pytest.approx((moved / added) ** 0.5, rel=5e-4)
    assert 8 < link.delta.relative_quantisation < 11
    kept = registry.show("tiny/a").revision.statistics
    assert kept["relative_quantisation"] == link.delta.relative_quantisation
    assert registry.stats("tiny/a").links == (link,)  # as it is kept
    rows = {row["module"]: row["relative_quantisation"] for row in registry.stats("tiny/a").rows()}
    assert (rows["lm_head"] is None, len(rows)) == (True, len(link.delta.modules))
    found = registry.search(stat="relative_quantisation>5").revisions
    assert [one.path for one in found] == ["tiny/a"]


def test_a_base_that_is_quantised_itself_is_what_was_trained_on(local: LocalRegistry, tmp_path: Path) -> None:
    plain = llama_base(tmp_path / "plain", dtype="BF16", hidden=32, mlp=40)
    made = quantised(plain, tmp_path / "q", nf4, NF4_CONFIG)
    local.add_base("tiny", made.folder)
    local.publish(write_adapter(tmp_path / "a", made.exact, ["q_proj"]), "tiny/a", trained_quantised=HOW)
    with pytest.raises(UsageError, match=r"tiny is quantised itself.*leave --onto trained out"):
        local.fetch("tiny/a", tmp_path / "out", kind="merged", onto="trained")
    assert local.stats("tiny/a").path.relative_quantisation is None
