"""The configuration of an adapter: what is kept, and what is refused by which code."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import peft
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from registry.errors import RegistryError
from registry.tensors.checkpoint.adapter import LoraAdapterConfig, PeftVersion
from registry.tensors.checkpoint.reading import parse_config
from registry.tensors.checkpoint.variants.fields import WAYS
from registry.tensors.checkpoint.variants.table import RULES, VARIANTS

PLAIN = {"peft_type": "LORA", "r": 4, "lora_alpha": 8, "target_modules": ["q_proj"]}


def config(**fields: Any) -> LoraAdapterConfig:
    return parse_config(json.dumps({**PLAIN, **fields}).encode())


def refused(code: str, **fields: Any) -> str:
    with pytest.raises(RegistryError) as caught:
        config(**fields)
    assert caught.value.code == code, caught.value
    return str(caught.value)


def test_a_configuration_opens_a_bounded_number_of_lists() -> None:
    config(auto_mapping={"a": [[]] * 65_000})
    assert "opens 65540 lists and objects, at most 65536" in refused(
        "bad_config", auto_mapping={"a": [[]] * (65_537 - 1)}
    )


def test_values_are_kept_with_their_order() -> None:
    found = config(
        lora_alpha=2.5,
        rank_pattern={"v_proj": 2, "layers.1.v_proj": 8},
        alpha_pattern={"q": -1},
        exclude_modules="x.*",
        layers_to_transform=3,
        layers_pattern="layers",
        auto_mapping={"base_model_class": "LlamaForCausalLM"},
    )
    assert (found.r, found.lora_alpha, found.use_rslora) == (4, 2.5, False)
    assert list(found.rank_pattern.items()) == [("v_proj", 2), ("layers.1.v_proj", 8)]
    assert found.alpha_pattern == {"q": -1}
    assert (found.target_modules, found.exclude_modules) == (("q_proj",), "x.*")
    assert (found.layers_to_transform, found.layers_pattern) == ((3,), ("layers",))
    assert found.trained_class == "LlamaForCausalLM"
    assert list(found.document) == [*PLAIN, *list(found.document)[4:]]


def test_scaling_is_alpha_by_rank_or_by_its_root() -> None:
    assert config().scaling(4, 8) == 2.0
    assert config(use_rslora=True).scaling(4, 8) == 4.0


@pytest.mark.parametrize("field", ["peft_type", "r", "lora_alpha"])
def test_required_fields(field: str) -> None:
    document = {key: value for key, value in PLAIN.items() if key != field}
    with pytest.raises(RegistryError, match=f"lacks the field '{field}'") as caught:
        parse_config(json.dumps(document).encode())
    assert caught.value.code == "bad_config"


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("r", "4"),
        ("r", 4.0),
        ("r", True),
        ("r", None),
        ("r", 0),
        ("r", -1),
        ("r", 65537),
        ("r", [4]),
        ("lora_alpha", "8"),
        ("lora_alpha", True),
        ("lora_alpha", None),
        ("lora_alpha", [8]),
        ("lora_alpha", {}),
        ("use_rslora", "true"),
        ("use_rslora", 1),
        ("use_dora", "no"),
        ("fan_in_fan_out", 0),
        ("rank_pattern", {"q": 2.0}),
        ("rank_pattern", {"q": True}),
        ("rank_pattern", ["q"]),
        ("alpha_pattern", {"q": "2"}),
        ("target_modules", ["q", 1]),
        ("target_modules", 7),
        ("exclude_modules", {"q": 1}),
        ("layers_to_transform", [True]),
        ("layers_to_transform", "1"),
        ("layers_pattern", [1]),
        ("init_lora_weights", "warp"),
        ("init_lora_weights", 3),
        ("bias", "some"),
        ("bias", ["none"]),
        ("base_model_name_or_path", 5),
        ("modules_to_save", "lm_head"),
        ("modules_to_save", [""]),
        ("target_parameters", "experts.down_proj"),
        ("target_parameters", ["a", 1]),
        ("lora_bias", "yes"),
        ("ensure_weight_tying", 1),
        ("trainable_token_indices", [1, True]),
        ("trainable_token_indices", [1.0]),
        ("trainable_token_indices", {"embed_tokens": 3}),
        ("trainable_token_indices", {"": [3]}),
        ("use_bdlora", True),
        ("use_bdlora", {"nblocks": 0}),
        ("use_bdlora", {"target_modules_bd_a": "q"}),
        ("use_bdlora", {"target_modules_bd_a": [""]}),
        ("use_bdlora", {"target_modules_bd_a": [f"q{number}" for number in range(257)]}),
        ("lora_dropout", "x"),
        ("base_model_name_or_path", "x" * 4097),
        ("revision", 3),
    ],
)
def test_types(field: str, value: Any) -> None:
    assert field in refused("bad_config", **{field: value})


@pytest.mark.parametrize(
    ("code", "field", "value"),
    [
        ("unsupported_peft_type", "peft_type", "VERA"),
        ("unsupported_peft_type", "peft_type", None),
        ("unsupported_peft_type", "peft_type", "lora"),
        ("layer_replication", "layer_replication", [[0, 2], [1, 2]]),
        ("not_mergeable", "alora_invocation_tokens", [1, 2]),
        ("not_mergeable", "arrow_config", {"top_k": 2}),
        ("not_mergeable", "use_qalora", True),
        ("not_mergeable", "enable_lora", [True, False, True]),
        ("not_mergeable", "megatron_config", {"a": 1}),
        ("unknown_config_field", "use_bdlora", {"nblocks": 2, "shape": 3}),
        ("bad_token_index", "trainable_token_indices", [3, 3]),
        ("base_shifting_init", "kasa_config", {"beta": 0.1}),
        ("base_shifting_init", "loftq_config", {"loftq_bits": 4}),
        ("unknown_config_field", "use_superlora", True),
        ("unknown_config_field", "superlora_config", {"a": 1}),
        ("unknown_config_field", "super_rank", 0),
    ],
)
def test_kinds_that_have_no_place(code: str, field: str, value: Any) -> None:
    assert field in refused(code, **{field: value})


@pytest.mark.parametrize("init", ["pissa", "pissa_niter_16", "PiSSA", "olora", "OLoRA", "corda", "lora_ga"])
def test_base_shifting_initialisations_name_the_conversion(init: str) -> None:
    assert "path_initial_model_for_weight_conversion" in refused("base_shifting_init", init_lora_weights=init)


def test_loftq_names_the_base_that_it_needs() -> None:
    assert "residual" in refused("base_shifting_init", init_lora_weights="loftq", loftq_config={"loftq_bits": 4})


@pytest.mark.parametrize("init", [True, False, None, "gaussian", "orthogonal", "eva", "mica"])
def test_additive_initialisations(init: Any) -> None:
    assert config(init_lora_weights=init).r == 4


@pytest.mark.parametrize("value", [None, False, [], {}, ""])
def test_unknown_fields_that_say_nothing_are_harmless(value: Any) -> None:
    assert config(some_new_field=value).r == 4


def test_every_field_of_the_installed_peft_has_a_rule() -> None:
    assert {field.name for field in dataclasses.fields(peft.LoraConfig)} <= set(RULES) | {"runtime_config"}


def test_every_variant_has_fields_and_tails_of_its_own() -> None:
    for kind in ("fields", "tails"):
        names = [name for variant in VARIANTS for name in getattr(variant, kind)]
        assert len(names) == len(set(names))


@pytest.mark.parametrize("kind", sorted({kind.value for kind in peft.PeftType} - {"LORA", "LOHA", "LOKR"}))
def test_every_other_tuner_of_the_installed_peft_is_refused_with_a_way(kind: str) -> None:
    assert kind in WAYS
    assert kind in refused("unsupported_peft_type", peft_type=kind)


def test_other_tuners_are_refused_before_the_fields_that_they_lack() -> None:
    with pytest.raises(RegistryError) as caught:
        parse_config(b'{"peft_type": "IA3", "feedforward_modules": ["w0"]}')
    assert caught.value.code == "unsupported_peft_type"


@pytest.mark.parametrize(
    ("text", "version"),
    [
        ("0.21.2", PeftVersion(0, 21, 2)),
        ("0.18.0@abc", PeftVersion(0, 18, 0)),
        ("0.22", PeftVersion(0, 22, 0)),
        ("0.20.0.post1", PeftVersion(0, 20, 0)),
        ("0.20.1.dev0", PeftVersion(0, 20, 1, final=False)),
        ("0.20.1rc1", PeftVersion(0, 20, 1, final=False)),
        ("UNKNOWN", None),
        (None, None),
    ],
)
def test_versions_of_peft(text: str | None, version: PeftVersion | None) -> None:
    assert config(peft_version=text).version == version


def test_a_development_version_comes_before_its_release() -> None:
    assert PeftVersion(0, 20, 0) < PeftVersion(0, 20, 1, final=False) < PeftVersion(0, 20, 1)


def test_what_peft_writes_is_read(tmp_path: Any) -> None:
    peft.LoraConfig(r=3, lora_alpha=5, use_rslora=True, target_modules=["b", "a"]).save_pretrained(tmp_path)
    found = parse_config((tmp_path / "adapter_config.json").read_bytes())
    assert (found.r, found.lora_alpha, found.use_rslora) == (3, 5, True)
    assert set(found.target_modules or ()) == {"a", "b"}


@pytest.mark.parametrize("data", [b"[]", b"null", b"3", b'{"r":4,"r":4}', b"\x80", b'{"lora_alpha": NaN}'])
def test_not_a_strict_object(data: bytes) -> None:
    with pytest.raises(RegistryError) as caught:
        parse_config(data)
    assert caught.value.code == "bad_config"


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)


@settings(deadline=None)
@given(st.dictionaries(st.sampled_from([*RULES, "strange"]), VALUES, max_size=6))
def test_any_document_is_read_or_refused(fields: dict[str, Any]) -> None:
    try:
        found = config(**fields)
    except RegistryError:
        return
    assert 1 <= found.r <= 65_536
