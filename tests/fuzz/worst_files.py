"""The worst files that we know how to make, each under 1 MB: what `test_bounds` measures.

An adapter is its two files; it is held against a base of 2288 modules whose matrices are 1 x 1, so that an adapter of
all of them fits into 1 MB and every check has to be gone through.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterable, Mapping
from functools import cache
from typing import Any, Final

from registry.files.header import write_header
from registry.tensors.table.parameters import FileParameter, FusedParameter, Piece
from registry.tensors.table.targets import Target, TargetKind, TargetTable
from tests.fuzz.pattern_texts import BOMBS

MOST: Final = 1_000_000
"""Bytes of a file."""

LEAVES: Final = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj")
MLP: Final = ("mlp.gate_proj", "mlp.up_proj", "mlp.down_proj")
MODULES: Final = [f"model.layers.{layer}.{leaf}" for layer in range(286) for leaf in (*LEAVES, *MLP)]

Adapter = tuple[bytes, bytes]
"""adapter_config.json and adapter_model.safetensors."""


def table() -> TargetTable:
    """The base."""
    targets = {name: Target(name, TargetKind.LINEAR, f"{name}.weight", (1, 1)) for name in MODULES}
    for layer in range(286):
        name = f"model.layers.{layer}.mlp.experts"
        pieces = tuple(Piece(f"{name}.w", expert, (0, 1), expert) for expert in range(8))
        fused = FusedParameter("gate_up_proj", 8, 1, 1, transposed=False, pieces=pieces)
        targets[name] = Target(name, TargetKind.EXPERTS, None, (8, 1, 1), fused=(fused,))
    parameters = {f"{name}.weight": FileParameter(f"{name}.weight", (1, 1)) for name in MODULES}
    parameters |= {f"{name}.bias": FileParameter(f"{name}.bias", (1,)) for name in MODULES}
    return TargetTable(targets, "transformers 5.0.0", parameters, "LlamaForCausalLM", "llama", "model")


def config(**fields: Any) -> bytes:
    """An adapter_config.json."""
    document = {"peft_type": "LORA", "r": 1, "lora_alpha": 1, "target_modules": ["q_proj"]} | fields
    raw = json.dumps(document, separators=(",", ":")).encode()
    assert len(raw) <= MOST, len(raw)
    return raw


def weights(names: Iterable[str]) -> bytes:
    """A safetensors file with as many of the tensors as fit; biases are vectors."""
    kept: list[tuple[str, str, tuple[int, ...]]] = []
    room = MOST - 1000
    for name in names:
        shape = (1,) if name.endswith("bias") else (1, 1)
        room -= len(json.dumps(name)) + 80
        if room < 0:
            break
        kept.append((name, "F16", shape))
    raw = write_header(kept, {})[0] + bytes(2 * len(kept))
    assert len(raw) <= MOST, len(raw)
    return raw


def pairs(modules: Iterable[str]) -> list[str]:
    """Names of the tensors of the modules' pairs."""
    return [f"base_model.model.{module}.lora_{side}.weight" for module in modules for side in "AB"]


ALL: Final = pairs(MODULES)


@cache
def _all_weights() -> bytes:
    return weights(ALL)


def fitting(room: int, make: Callable[[int], Any]) -> list[Any]:
    """As many distinct values as fit into ``room`` bytes of JSON, no more than a list may have."""
    found: list[Any] = []
    for place in range(65_536):
        value = make(place)
        room -= len(json.dumps(value)) + 1
        if room < 0:
            break
        found.append(value)
    return found


def _keys(make: Callable[[int], str]) -> dict[str, int]:
    return dict.fromkeys(fitting(MOST - 400 - 2 * 65_536, make), 1)


def _mask(first: str) -> Callable[[int], str]:
    dice = random.Random(1)

    def mask(_: int) -> str:
        return first + "".join("." if dice.random() < 0.5 else letter for letter in MODULES[70][len(first) :])

    return mask


def _escaped(place: int) -> str:
    """One name, its dots escaped or not, and some letters wildcards: all of them match it."""
    letters = list(MODULES[0])
    for bit in range(16):
        at = 3 + bit
        if place >> bit & 1:
            letters[at] = r"\." if letters[at] == "." else "."
    return "".join(letters)


ADAPTERS: Final[Mapping[str, Callable[[], Adapter]]] = {
    "all modules": lambda: (config(target_modules=[name.rpartition(".")[2] for name in MODULES[:7]]), _all_weights()),
    "all linear": lambda: (config(target_modules="all-linear"), _all_weights()),
    # patterns times modules
    "a name for each module": lambda: (
        config(rank_pattern=dict.fromkeys(MODULES, 1), alpha_pattern=dict.fromkeys(MODULES, 1.5)), _all_weights()
    ),
    "wildcards everywhere": lambda: (config(rank_pattern=_keys(_mask("X"))), _all_weights()),
    "wildcards that all match": lambda: (config(rank_pattern=_keys(_mask(""))), _all_weights()),
    "one name spelt in many ways": lambda: (config(rank_pattern=_keys(_escaped)), _all_weights()),
    "short names": lambda: (config(rank_pattern=_keys(lambda n: f"{n:x}.a")), _all_weights()),
    "one very long name": lambda: (config(rank_pattern={"a." * 490_000: 1}), _all_weights()),
    "long names of dots": lambda: (config(alpha_pattern={"." * n: 1 for n in range(1300)}), _all_weights()),
    "as many expressions as are allowed": lambda: (
        config(rank_pattern={f"(?:x{n}|y)": 1 for n in range(1023)}), _all_weights()
    ),
    "overlapping keys": lambda: (
        config(alpha_pattern={f"(?:.*_proj|{n})": n for n in range(30)} | {"layers.0.*": 2}), _all_weights()
    ),
    "overlapping plain keys": lambda: (
        config(alpha_pattern={f"{lead}{leaf}": n for lead in ("", ".", "..", "^.", "...") for n, leaf in enumerate(
            ("q_proj", "._proj", "q.proj", "..proj", "q_.roj", "k_proj", "k..roj"))}), _all_weights()
    ),
    "layers_pattern": lambda: (
        config(layers_to_transform=[1], layers_pattern=[f"x{n}|layer." for n in range(1000)]), _all_weights()
    ),
    "layers_pattern, long": lambda: (
        config(layers_to_transform=list(range(60_000)), layers_pattern=fitting(500_000, "x{}".format)), _all_weights()
    ),
    "an alternative for each module": lambda: (config(target_modules="|".join(MODULES[:150])), _all_weights()),
    "exclude_modules": lambda: (config(exclude_modules=fitting(900_000, "m{}".format)), _all_weights()),
    "target_modules": lambda: (config(target_modules=fitting(900_000, "m{}".format)), _all_weights()),
    # other lists
    "modules_to_save": lambda: (config(modules_to_save=fitting(900_000, "m{}".format)), _all_weights()),
    "new modules": lambda: (
        config(modules_to_save=fitting(900_000, "m{}".format)),
        weights(ALL[:2] + [f"base_model.model.m{n}.weight" for n in range(9000)]),
    ),
    "saved modules of the base": lambda: (
        config(modules_to_save=["v_proj", "k_proj", "o_proj", "mlp"]),
        weights(
            [name for name in ALL if "q_proj" in name]
            + [f"base_model.model.{name}.weight" for name in MODULES if "q_proj" not in name]
            + [f"base_model.model.{name}.bias" for name in MODULES if "q_proj" not in name]
        ),
    ),
    "biases": lambda: (
        config(bias="all"),
        weights(ALL[:2] + [f"base_model.model.{name}.bias" for name in MODULES]),
    ),
    "target_parameters": lambda: (config(target_parameters=fitting(900_000, "m{}.w".format)), _all_weights()),
    "token rows": lambda: (config(trainable_token_indices=list(range(140_000))), _all_weights()),
    "token rows of modules": lambda: (
        config(trainable_token_indices={f"m{n}": [n] for n in range(50_000)}), _all_weights()
    ),
    "fields that say nothing": lambda: (config(**{f"f{n}": None for n in range(60_000)}), _all_weights()),
    "a long version": lambda: (config(peft_version="0.21.2" + "+a" * 490_000), _all_weights()),
    "digits of a version": lambda: (config(peft_version="1" * 900_000), _all_weights()),
    "a long name of the base": lambda: (config(base_model_name_or_path="a/" * 490_000), _all_weights()),
    "a long name of an initialisation": lambda: (config(init_lora_weights="PISSA_NITER_" * 80_000), _all_weights()),
    "a long name of a tuner": lambda: (config(peft_type="lora" * 240_000), _all_weights()),
    "mapping": lambda: (config(auto_mapping={f"k{n}": "base_model_class" for n in range(30_000)}), _all_weights()),
    "blocks": lambda: (
        config(use_bdlora={"target_modules_bd_a": fitting(400_000, "m{}".format), "target_modules_bd_b":
            fitting(400_000, "n{}".format), "nblocks": 1}), _all_weights()
    ),
    # names of tensors
    "names of a thousand dots": lambda: (
        config(), weights(pairs("a." * 480 + f"m{n}" for n in range(500)))
    ),
    "names like the base's": lambda: (config(), weights(pairs(["model.layers.self_attn.q_proj.mlp" * 5 + "x"]))),
    "names like the base's, leaf and all": lambda: (
        config(), weights(pairs(["model.layers.9.self_attn.q_proj" * 5 + ".q_proj"]))
    ),
    "unknown modules": lambda: (config(), weights(pairs(f"model.layers.{n}.self_attn.qkv" for n in range(4000)))),
    "names of another dialect": lambda: (
        config(), weights(["lora_unet_" + "model_layers_" * 70 + ".lora_down.weight"])
    ),
    "names of many dialects": lambda: (
        config(), weights(["base_model.model." + ".lora_A.processor.to_q_lora.down" * 30 + ".lora_A.weight.default"])
    ),
    "whole parameters": lambda: (config(), weights([f"base_model.model.m{n}.p" for n in range(10_000)])),
    "base layers": lambda: (
        config(target_parameters=["experts.w"]),
        weights(pairs("model.experts" + ".base_layer" * 85 + f".m{n}" for n in range(1000))),
    ),
}  # fmt: skip
"""Name -> the two files of an adapter."""


def _config_of(text: str) -> Callable[[], Adapter]:
    return lambda: (config()[:-1] + b"," + text.encode()[: MOST - 100] + b"}", weights(ALL[:2]))


CONFIGS: Final[Mapping[str, Callable[[], Adapter]]] = {
    "lists": _config_of('"auto_mapping":[' + "[]," * 333_000 + "[]]"),
    "objects": _config_of('"auto_mapping":[' + "{}," * 333_000 + "{}]"),
    "small objects": _config_of('"auto_mapping":[' + '{"a":1},' * 124_000 + "{}]"),
    "integers": _config_of('"auto_mapping":[' + "7," * 499_000 + "7]"),
    "long integers": _config_of('"auto_mapping":[' + "99999999999999999999," * 47_000 + "7]"),
    "fractions": _config_of('"auto_mapping":[' + "1.5," * 249_000 + "7]"),
    "digits": _config_of('"auto_mapping":' + "9" * 990_000),
    "digits of a fraction": _config_of('"auto_mapping":0.' + "3" * 990_000),
    "digits before a point": _config_of('"auto_mapping":' + "3" * 990_000 + ".5"),
    "an exponent": _config_of('"auto_mapping":1e' + "9" * 990_000),
    "strings": _config_of('"auto_mapping":[' + '"ab",' * 199_000 + '""]'),
    "escapes": _config_of('"auto_mapping":"' + "\\ud83d\\ude00" * 82_000 + '"'),
    "half pairs": _config_of('"auto_mapping":"' + "\\ud83d" * 164_000 + '"'),
    "a backslash at the end": _config_of('"auto_mapping":"' + "\\\\" * 490_000 + '"'),
    "lines": _config_of('"auto_mapping":1' + "\n" * 990_000 + "x"),
    "keys": _config_of(",".join(f'"{n}":0' for n in range(90_000))),
    "one key many times": _config_of(",".join(['"a":0'] * 160_000)),
    "open lists": lambda: (b"[" * MOST, weights(ALL[:2])),
    "open objects": lambda: (b'{"a":' * (MOST // 5), weights(ALL[:2])),
    "nested": _config_of('"auto_mapping":' + "[" * 400_000 + "]" * 400_000),
    "63 levels, wide": _config_of('"auto_mapping":[' + ("[" * 60 + "]" * 60 + ",") * 8_000 + "[]]"),
    "not UTF-8": lambda: (b"\xff" * MOST, weights(ALL[:2])),
}
"""Name -> an adapter whose configuration is hard to parse."""


def _bomb(text: str, field: str) -> Callable[[], Adapter]:
    value: Any = {text: 1} if field.endswith("_pattern") and field != "layers_pattern" else text
    value = [text] if field == "layers_pattern" else value
    more = {"layers_to_transform": [1]} if field == "layers_pattern" else {}
    return lambda: (config(**{field: value}, **more), _all_weights())


PATTERN_FIELDS: Final = (
    "target_modules", "exclude_modules", "rank_pattern", "alpha_pattern", "layers_pattern", "modules_to_save",
)  # fmt: skip
PATTERNS: Final[Mapping[str, Callable[[], Adapter]]] = {
    f"{name} in {field}": _bomb(text, field)
    for place, (name, text) in enumerate(BOMBS.items())
    for field in {"rank_pattern", PATTERN_FIELDS[place % len(PATTERN_FIELDS)]}
}
"""Name -> an adapter with a bomb in one of its fields: each in the field with the most to match, and one in turn."""


def _header_of(inner: str) -> Callable[[], bytes]:
    def make() -> bytes:
        raw = ("{" + inner + "}").encode()[: MOST - 8]
        return len(raw).to_bytes(8, "little") + raw

    return make


def _empty(name: str) -> str:
    return f'{json.dumps(name)}:{{"dtype":"U8","shape":[0],"data_offsets":[0,0]}}'


HEADERS: Final[Mapping[str, Callable[[], bytes]]] = {
    "tensors": _header_of(",".join(_empty(f"{n:x}") for n in range(17_000))),
    "tensors, one twice": _header_of(",".join(_empty(f"{n:x}") for n in (*range(17_000), 0))),
    "tensors, the last one wrong": _header_of(",".join(_empty(f"{n:x}") for n in range(17_000)) + ',"z":1'),
    "shapes": _header_of('"a":{"dtype":"U8","data_offsets":[0,0],"shape":[' + "0," * 480_000 + "0]}"),
    "a long name": _header_of(_empty("n" * 990_000)),
    "long names": _header_of(",".join(_empty("é.Ω" * 100 + str(n)) for n in range(520))),
    "names of dots": _header_of(",".join(_empty("a." * 500 + str(n)) for n in range(900))),
    "metadata": _header_of('"__metadata__":{' + ",".join(f'"{n}":""' for n in range(80_000)) + "}"),
    "long metadata": _header_of('"__metadata__":{"a":"' + "\\u0041" * 160_000 + '"}'),
    "a dtype": _header_of('"a":{"shape":[0],"data_offsets":[0,0],"dtype":[' + '"U8",' * 190_000 + "0]}"),
    "spaces": _header_of(" " * 990_000),
    "nested": _header_of('"a":' + "[" * 490_000 + "]" * 490_000),
}
"""Name -> a safetensors file."""


def _index(count: int, name: Callable[[int], str]) -> bytes:
    raw = json.dumps(
        {"metadata": {}, "weight_map": {name(n): "model-00001.safetensors" for n in range(count)}}
    ).encode()
    assert len(raw) <= MOST, len(raw)
    return raw


BASES: Final[Mapping[str, Callable[[], dict[str, bytes]]]] = {
    "tensors": lambda: {"model.safetensors": HEADERS["tensors"]()},
    "names of dots": lambda: {"model.safetensors": HEADERS["names of dots"]()},
    "names of dots and underscores": lambda: {
        "model.safetensors": weights(".a_" * 340 + str(n) for n in range(900)),
    },
    "an index": lambda: {
        "model.safetensors.index.json": _index(9_000, "t{}".format),
        "model-00001.safetensors": weights(f"t{n}" for n in range(9_000)),
    },
    "an index of many files": lambda: {
        "model.safetensors.index.json": json.dumps(
            {"weight_map": {f"t{n}": f"model-{n:05}.safetensors" for n in range(22_000)}}
        ).encode(),
        "model-00000.safetensors": weights(["t0"]),
    },
    "a long file name": lambda: {
        "model.safetensors.index.json": json.dumps({"weight_map": {"a": "n" * 990_000}}).encode(),
        "model-00000.safetensors": weights(["a"]),
    },
    "a config": lambda: {
        "config.json": json.dumps({f"k{n}": [] for n in range(60_000)}).encode(),
        "model.safetensors": weights(["a"]),
    },
    "a quantised config": lambda: {
        "config.json": json.dumps({"quantization_config": {"quant_method": ["x" * 100] * 9_000}}).encode(),
        "model.safetensors": weights(["a"]),
    },
}
"""Name -> the files of a base folder."""
