"""Texts of adapter_config.json for fuzzing: the fields of PEFT's LoraConfig, values that fit them, and others."""

from __future__ import annotations

import json
from typing import Any, Final

from hypothesis import strategies as st

from tests.fuzz.pattern_texts import BOMBS, NAMES, PATTERNS, PLAIN
from tests.fuzz.peft_source import config_fields

FIELDS: Final = sorted(config_fields())

DEFAULTS: Final[dict[str, Any]] = {
    "alora_invocation_tokens": None, "alpha_pattern": {}, "arrow_config": None, "auto_mapping": None,
    "base_model_name_or_path": "org/model", "bias": "none", "corda_config": None, "ensure_weight_tying": False,
    "eva_config": None, "exclude_modules": None, "fan_in_fan_out": False, "inference_mode": True,
    "init_lora_weights": True, "layer_replication": None, "layers_pattern": None, "layers_to_transform": None,
    "loftq_config": {}, "lora_alpha": 4, "lora_bias": False, "lora_dropout": 0.0, "megatron_config": None,
    "megatron_core": "megatron.core", "modules_to_save": None, "peft_type": "LORA", "peft_version": "0.21.2",
    "qalora_group_size": 16, "r": 2, "rank_pattern": {}, "revision": None, "target_modules": ["q_proj"],
    "target_parameters": None, "task_type": "CAUSAL_LM", "trainable_token_indices": None, "use_bdlora": None,
    "use_dora": False, "use_qalora": False, "use_rslora": False,
}  # fmt: skip

ODD_TEXTS: Final = (
    "NaN", "Infinity", "-Infinity", "-0", "1e400", "-1e400", "1e-400", "9" * 400, "-" + "9" * 21, "1" + "0" * 19, "01",
    '"\\ud800"', '"\\udc00\\ud800"', '"\\u0000"', '"\\ud83d\\ude00"', '"\x00"', '"\n"', "'a'", "undefined", "[1,]",
    "{,}", '{"a":1,"a":1}', '{"a":{"b":1,"\\u0062":2}}', "[" * 62 + "]" * 62, "[" * 63 + "]" * 63, "[" * 64 + "]" * 64,
    "[" * 5000, '{"a":' * 62 + "1" + "}" * 62, '"' + "x" * 20_000 + '"', "[" + '"x",' * 70_000 + '"x"]', '"\\x41"',
    "True", "None", "", "0x10", "1_000", "\ufeff1", "1 2", "/**/1", "1.", ".5", "+1", "1e", '"\\u00e9"', '"\u202e"',
    "2.0", "2e0", "true",
)  # fmt: skip
"""JSON texts of values, most of them not JSON."""

_NAMES = NAMES | PLAIN | st.sampled_from(["q_proj", "v_proj", "embed_tokens", "lm_head", "experts", "conv", "attn", ""])
_SMALL = st.integers(-1, 5) | st.sampled_from([0.5, 2.0, -3, 1e300, 65536, 65537, 2**40])
VALUES: Final[st.SearchStrategy[Any]] = st.one_of(
    st.none(),
    st.booleans(),
    _SMALL,
    st.text(st.characters(exclude_categories=["Cs"]), max_size=6),
    st.sampled_from(
        ["all", "lora_only", "none", "all-linear", "ALL-LINEAR", "gaussian", "pissa_niter_4", "LORA", "LOHA"]
    ),
    st.sampled_from(["0.17.0", "0.21.3.dev0", "0.18.0@abc", "1", "0.x", "SEQ_CLS", "dummy-target-modules"]),
    st.lists(_NAMES, max_size=3),
    st.lists(_SMALL, max_size=3),
    st.lists(st.lists(_SMALL, max_size=2), max_size=2),
    st.dictionaries(_NAMES | PATTERNS, _SMALL | st.lists(_SMALL, max_size=3) | st.none(), max_size=3),
    st.fixed_dictionaries({"target_modules_bd_a": st.lists(_NAMES, max_size=2), "nblocks": _SMALL}),
    PATTERNS,
    st.sampled_from(sorted(text for text in BOMBS.values() if len(text) < 20_000)),
)
"""Values of any type, with what the fields of LoraConfig hold among them."""


def dumped(value: Any) -> str:
    """JSON as a person might write it: as it is, without escapes."""
    return json.dumps(value, ensure_ascii=False)


@st.composite
def documents(draw: st.DrawFn) -> dict[str, Any]:
    """Configurations that are JSON: PEFT's, with some fields changed, left out or added."""
    found = dict(DEFAULTS)
    for field in draw(st.lists(st.sampled_from(FIELDS), max_size=3)):
        found[field] = draw(VALUES)
    for field in draw(st.lists(st.sampled_from(FIELDS), max_size=2)):
        found.pop(field, None)
    if draw(st.integers(0, 5)) == 0:
        found[draw(st.sampled_from(["new_field", "R", "lora_alpha ", "é", ""]))] = draw(VALUES)
    return found


@st.composite
def texts(draw: st.DrawFn) -> bytes:
    """Configurations that may be no JSON: odd values, keys twice, bytes broken."""
    members = [(dumped(key), dumped(value)) for key, value in draw(documents()).items()]
    for _ in range(draw(st.integers(0, 2))):
        place = draw(st.integers(0, len(members) - 1))
        members[place] = (members[place][0], draw(st.sampled_from(ODD_TEXTS)))
    if draw(st.booleans()):
        key, value = draw(st.sampled_from(members))
        key = draw(st.sampled_from([key, key, '"\\u0072"', '"new"', '"\\ud800"', "r", '"r" ']))
        members.insert(draw(st.integers(0, len(members))), (key, draw(st.sampled_from([value, "null", "2"]))))
    raw = bytearray(("{" + ",".join(f"{key}:{value}" for key, value in members) + "}").encode("utf-8", "surrogatepass"))
    for _ in range(draw(st.sampled_from([0, 0, 0, 1, 2]))):
        at = draw(st.integers(0, len(raw) - 1))
        raw[at : at + draw(st.integers(0, 2))] = draw(st.binary(max_size=2))
    return draw(st.sampled_from([b"", b"", b"", b"\xef\xbb\xbf", b" \n", b"\x00"])) + bytes(raw)
