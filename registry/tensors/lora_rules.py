"""What each field of a LoRA configuration may say: one rule a field.

A rule is a function of (field, value) that gives the value back in the form that `LoraAdapterConfig` keeps, or raises.
A field without a rule is unknown, and refused as soon as it says something: new kinds of LoRA are announced by new
fields. To support what is refused as not supported yet, give its field another rule.
The fields are those of PEFT 0.17 to 0.21 (``LoraConfig``), and two from before 0.3.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Final, NoReturn

from registry.errors import InvalidAdapterError
from registry.tensors.strict_json import shown

MAX_RANK: Final = 65_536
MAX_LIST: Final = 65_536
ADDITIVE_INITS: Final = ("gaussian", "orthogonal", "eva", "mica")
BASE_SHIFTING_INITS: Final = ("pissa", "olora", "corda", "lora_ga", "loftq")

Rule = Callable[[str, Any], Any]


def refuse(field: str, value: object, why: str, code: str = "bad_config") -> NoReturn:
    """Raise the error for one field of the configuration."""
    raise InvalidAdapterError(f"adapter_config.json: {field} is {shown(value)}; {why}", code=code)


def says_something(value: object) -> bool:
    """Whether a value differs from null, false and everything empty."""
    return value is not None and value is not False and value not in ("", [], {})


def any_value(_: str, value: Any) -> Any:
    """The field does not change the weights."""
    return value


def boolean(field: str, value: Any) -> bool:
    """True or false; null is false."""
    if value is None or isinstance(value, bool):
        return bool(value)
    refuse(field, value, "expected true or false.")


def text(field: str, value: Any) -> str | None:
    """A string, or null."""
    if value is None or isinstance(value, str):
        return value
    refuse(field, value, "expected a string.")


def rank(field: str, value: Any) -> int:
    """A rank."""
    if isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= MAX_RANK:
        return value
    refuse(field, value, f"expected an integer from 1 to {MAX_RANK}.")


def number(field: str, value: Any) -> float:
    """A finite number of any sign; an integer stays one."""
    if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value):
        return value
    refuse(field, value, "expected a finite number.")


def fraction(field: str, value: Any) -> Any:
    """A number that only training uses, or null."""
    return value if value is None else number(field, value)


def strings(field: str, value: Any) -> tuple[str, ...]:
    """A list of strings; null is empty."""
    if value is None:
        return ()
    if isinstance(value, list) and len(value) <= MAX_LIST and all(isinstance(item, str) for item in value):
        return tuple(value)
    refuse(field, value, f"expected a list of at most {MAX_LIST} strings.")


def module_names(field: str, value: Any) -> tuple[str, ...] | str | None:
    """A list of module names, a regular expression, or null."""
    return value if value is None or isinstance(value, str) else strings(field, value)


def one_or_more_strings(field: str, value: Any) -> tuple[str, ...]:
    """A string or a list of them."""
    if isinstance(value, str):
        return (value,) if value else ()
    return strings(field, value)


def layer_numbers(field: str, value: Any) -> tuple[int, ...]:
    """A layer number or a list of them; null is empty."""
    found = [value] if isinstance(value, int) else [] if value is None else value
    if isinstance(found, list) and len(found) <= MAX_LIST and all(type(item) is int for item in found):
        return tuple(found)
    refuse(field, value, "expected a layer number or a list of them.")


def _patterns(of: Rule) -> Rule:
    def rule(field: str, value: Any) -> dict[str, Any]:
        if value is None:
            return {}
        if not isinstance(value, dict) or len(value) > MAX_LIST:
            refuse(field, value, f"expected a map of at most {MAX_LIST} patterns.")
        return {key: of(f"{field}[{shown(key)}]", item) for key, item in value.items()}

    return rule


def _nothing(code: str, why: str) -> Rule:
    """The field must say nothing (null, false or empty)."""

    def rule(field: str, value: Any) -> None:
        if says_something(value):
            refuse(field, value, why, code)

    return rule


def _not_yet(what: str, instead: str) -> Rule:
    return _nothing("not_supported_yet", f"{what} can't be composed by this version yet. {instead}")


def peft_type(field: str, value: Any) -> str:
    """LORA and nothing else."""
    if value == "LORA":
        return "LORA"
    refuse(field, value, "only LORA adapters are kept. Convert it to a LoRA first.", "unsupported_peft_type")


CONVERT: Final = (
    "so W + BA is wrong on the original base. Save it with "
    "save_pretrained(path_initial_model_for_weight_conversion=...), which turns it into a plain LoRA."
)


def initialisation(field: str, value: Any) -> bool | str:
    """An initialisation that leaves the base weights as they are."""
    if value is None or isinstance(value, bool):
        return bool(value)
    if not isinstance(value, str):
        refuse(field, value, "expected true, false or the name of an initialisation.")
    name = value.lower()
    if name in ADDITIVE_INITS:
        return name
    if name in BASE_SHIFTING_INITS or name.startswith("pissa"):
        refuse(field, value, f"this initialisation changes the base weights, {CONVERT}", "base_shifting_init")
    refuse(field, value, f"known are true, false, {', '.join(ADDITIVE_INITS)}; others may change the base weights.")


def bias(field: str, value: Any) -> str:
    """No biases."""
    if value in (None, "none"):
        return "none"
    if value in ("all", "lora_only"):
        refuse(field, value, "trained biases can't be composed by this version yet.", "not_supported_yet")
    refuse(field, value, "expected none, all or lora_only.")


RULES: Final[dict[str, Rule]] = {
    # the kind of adapter
    "peft_type": peft_type,
    "layer_replication": _nothing(
        "layer_replication", "the adapter belongs to an expanded stack of layers that shares the weights of the base. "
        "Save the expanded model, add it as a base model, and train on that.",
    ),
    "kasa_config": _nothing("base_shifting_init", "KaSA cuts the base weights. Train a plain LoRA instead."),
    "init_lora_weights": initialisation,
    # these also stay in the file when init_lora_weights was set to true by hand, as PEFT's guides show
    **dict.fromkeys(("loftq_config", "corda_config", "lora_ga_config"), _nothing(
        "base_shifting_init", "it belongs to an initialisation that changes the base weights. If the adapter was "
        "converted with save_pretrained(path_initial_model_for_weight_conversion=...), set the field to null; if not, "
        "convert it.",
    )),
    "alora_invocation_tokens": _nothing(
        "not_mergeable", "an activated LoRA works from certain tokens on and has no weight equivalent."
    ),
    "arrow_config": _nothing("not_mergeable", "Arrow routes between adapters by input and has no weight equivalent."),
    "use_qalora": _nothing("not_mergeable", "QA-LoRA belongs to a quantised base and can't be merged."),
    "enable_lora": _nothing("not_mergeable", "fused projections of PEFT before 0.3 are not kept. Train a plain LoRA."),
    "use_bdlora": _not_yet("block-diagonal LoRA", "Train a plain LoRA instead."),
    "megatron_config": _not_yet("a tensor-parallel (Megatron) LoRA", "Convert it to plain modules first."),
    # what is adapted besides LoRA pairs
    "bias": bias,
    "lora_bias": _not_yet("a bias of lora_B", "Train with lora_bias=False."),
    "modules_to_save": _not_yet("a replaced module", "Train without modules_to_save."),
    "trainable_token_indices": _not_yet("trained token rows", "Train without trainable_token_indices."),
    "target_parameters": _not_yet("LoRA on parameters (experts)", "Target modules instead."),
    "ensure_weight_tying": _not_yet("a LoRA on tied weights", "Train without ensure_weight_tying."),
    # the pairs and their scale
    "r": rank,
    "lora_alpha": number,
    "use_rslora": boolean,
    "use_dora": boolean,  # the checkpoint is checked for its magnitudes before DoRA is refused
    "rank_pattern": _patterns(rank),
    "alpha_pattern": _patterns(number),
    # where they are
    "target_modules": module_names,
    "exclude_modules": module_names,
    "layers_to_transform": layer_numbers,
    "layers_pattern": one_or_more_strings,
    # known, without effect on the weights
    "base_model_name_or_path": text,
    "revision": text,
    "task_type": text,
    "peft_version": text,
    "fan_in_fan_out": boolean,  # never believed: PEFT writes the value of the module that it visited last
    "lora_dropout": fraction,
    "inference_mode": boolean,
    "auto_mapping": any_value,
    "runtime_config": any_value,
    "megatron_core": any_value,
    "qalora_group_size": any_value,
    "merge_weights": any_value,
    "velora_config": any_value,  # changes the backward pass only
    "monteclora_config": any_value,  # merging and evaluation use the plain pair
    "eva_config": any_value,  # an additive initialisation
}  # fmt: skip
"""Field -> rule, in the order of the checks."""
