"""A tiny model with random weights of any type that transformers knows.

The default configuration of the type is made small by the names of its fields; no field is known by its type. Sizes
that are multiplied are 32, those of the middle of an MLP 48, so that few matrices are square. What that does not get
built is in `tests.architectures.overrides`.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Iterator, Mapping
from typing import Any, Final

import torch

from tests.architectures.overrides import FIELDS

WIDTH: Final = 32
MIDDLE: Final = 48
MOST: Final = 60_000_000
"""Numbers that a model may have: what is left larger by one way of shrinking is tried by the next."""
_CHOSEN: Final = ("out_features", "out_indices", "stage_names", "per_layer_config", "activation_sparsity_pattern")
"""Fields that name layers by number, or stages: the configuration works them out anew."""

_MAPPINGS: Final = (
    "CAUSAL_LM", "SEQ_TO_SEQ_CAUSAL_LM", "SPEECH_SEQ_2_SEQ", "IMAGE_TEXT_TO_TEXT", "MULTIMODAL_LM", "MASKED_LM", "CTC",
    "TEXT_TO_WAVEFORM", "TEXT_TO_SPECTROGRAM", "PRETRAINING", "", "OBJECT_DETECTION", "IMAGE_CLASSIFICATION",
    "UNIVERSAL_SEGMENTATION", "INSTANCE_SEGMENTATION", "SEMANTIC_SEGMENTATION", "DEPTH_ESTIMATION",
    "AUDIO_CLASSIFICATION", "VIDEO_CLASSIFICATION", "MASK_GENERATION", "KEYPOINT_DETECTION", "KEYPOINT_MATCHING",
    "ZERO_SHOT_OBJECT_DETECTION", "ZERO_SHOT_IMAGE_CLASSIFICATION", "IMAGE_TO_IMAGE", "IMAGE_MATTING",
    "TIME_SERIES_PREDICTION", "TABLE_RECOGNITION", "TEXT_RECOGNITION", "RNNT", "TDT", "POSE_ESTIMATION",
    "NORMAL_ESTIMATION", "POINTMAP_ESTIMATION", "RETRIEVAL", "VISUAL_QUESTION_ANSWERING", "BACKBONE", "TEXT_ENCODING",
    "SEQUENCE_CLASSIFICATION", "TOKEN_CLASSIFICATION", "QUESTION_ANSWERING",
)  # fmt: skip
"""Auto classes in the order in which they are tried: a head for words first, as most adapters are trained with one."""

_LAYERS: Final = re.compile(r"(^|_)(n|num)_(\w+_)?(layers?|blocks?)$|(^|_)layers?$|(^|_)depth$|^n_layer")
_SPECIAL: Final = re.compile(r"(token|tok)_?(id|index|idx)?s?$|_id$|_token_(id|index)\w*$")
_RULES: Final[tuple[tuple[str, int], ...]] = (
    (r"vocab|num_embeddings|codebook_size|num_codes|bucket_size|^n_words$", 64),
    (r"positions?(_embeddings)?$|max_seq|max_length|max_\w*len|(source|target)_positions|seq_length|block_size$", 64),
    (r"experts?_per_tok|top_?k|num_selected", 2),
    (r"shared_expert(s)?$|n_group$|topk_group|num_expert_group", 1),
    (r"(num|n)_(\w+_)?experts?$|num_\w*experts\w*", 4),
    (r"(kv|key_value|query)_heads|n_head_kv|kv_head", 2),
    (r"mamba_(d_head|head_dim)|mamba_headdim|ssm_head_dim", 16),
    (r"heads?$", 4),
    (r"head_dim|d_kv|d_head|qk_nope|qk_rope|v_head|head_size|key_dim|value_dim$", 8),
    (r"intermediate|ffn|feed_?forward|d_ff|d_inner|mlp_dim|mlp_hidden|moe_hidden|hidden_size_mlp", MIDDLE),
    (r"image_size|spatial|img_size|input_size", WIDTH),
    (r"patch_size|window_size|kernel|stride|num_channels|in_channels|out_channels|state_size|d_state|conv", 0),
    (r"hidden|d_model|n_embd|embed|dim|width|size$|channels|rank|units", WIDTH),
)


def architectures() -> list[str]:
    """Every model type for which transformers has a model class."""
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING_NAMES

    return sorted(name for name in CONFIG_MAPPING_NAMES if next(_class_names(name), None))


def _class_names(model_type: str) -> Iterator[str]:
    from transformers.models.auto import modeling_auto

    for name in _MAPPINGS:
        mapping = getattr(modeling_auto, f"MODEL{'_FOR_' + name if name else ''}_MAPPING_NAMES")
        found = mapping.get(model_type)
        if found:
            yield found[0] if isinstance(found, tuple) else found


def model_classes(model_type: str) -> list[Any]:
    """The classes of models of the type, the one to try first first."""
    import importlib

    import transformers
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    found = []
    for name in dict.fromkeys(_class_names(model_type)):
        cls = getattr(transformers, name, None)
        if cls is None:
            module = CONFIG_MAPPING[model_type].__module__.replace("configuration_", "modeling_")
            cls = getattr(importlib.import_module(module), name, None)
        if cls is not None and not getattr(cls, "_backends", None):
            found.append(cls)
    if not found:
        raise ImportError(f"the classes {', '.join(_class_names(model_type))} need packages that are not here")
    return found


def tiny_model(model_type: str, cls: Any, *, tied: bool | None = None) -> Any:
    """A model with random weights; ``tied`` sets tie_word_embeddings, None leaves it as it is.

    Raises whatever the model's code raises where no way of shrinking gets it built.
    """
    from transformers import initialization
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    config_class = CONFIG_MAPPING[model_type]
    problem: Exception | None = None
    for way in (_all_small, _few_layers, _as_it_is):
        try:
            config = _config(model_type, config_class, way, tied)
            with torch.device("meta"):
                size = sum(one.numel() for one in cls(copy.deepcopy(config)).parameters())
            if size > MOST:
                raise MemoryError(f"{size} numbers")  # noqa: TRY301 (tried by the next way)
            with initialization.no_init_weights():
                model = cls(config)
            return _filled(model)
        except Exception as error:  # noqa: BLE001 (model code raises anything; the last way's problem is told)
            problem = problem or error
    raise problem or AssertionError(model_type)


def _filled(model: Any) -> Any:
    """Random numbers in every weight, the same for every run."""
    generator = torch.Generator().manual_seed(7)
    model.tie_weights()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.is_floating_point():
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.05)
        for module in model.modules():
            if isinstance(module, torch.nn.Embedding) and module.padding_idx is not None:
                module.weight[module.padding_idx] = 0.0  # as training leaves it; some models' loaders set it so anyway
        for buffer in model.buffers():
            if buffer.is_floating_point():
                buffer.nan_to_num_(0.0, 0.0, 0.0)
    return model.float().eval()


def _config(model_type: str, config_class: Any, way: Any, tied: bool | None) -> Any:
    fields = FIELDS.get(model_type, {})
    try:
        default = config_class()
    except Exception:  # noqa: BLE001 (some configurations don't allow their own defaults)
        default = config_class(**copy.deepcopy(dict(fields)))
    document = way(default.to_dict())
    _lay_over(document, fields)
    for key in ("architectures", "transformers_version", "dtype", "torch_dtype", "_name_or_path"):
        document.pop(key, None)
    if tied is not None:
        document["tie_word_embeddings"] = tied
        for part in document.values():
            if isinstance(part, dict) and "tie_word_embeddings" in part:
                part["tie_word_embeddings"] = tied
    return config_class.from_dict(document)


def _lay_over(document: dict[str, Any], fields: Mapping[str, Any]) -> None:
    for key, value in fields.items():
        if isinstance(value, dict) and isinstance(document.get(key), dict):
            _lay_over(document[key], value)
        else:
            document[key] = copy.deepcopy(value)


def _as_it_is(document: dict[str, Any]) -> dict[str, Any]:
    return document


def _few_layers(document: dict[str, Any]) -> dict[str, Any]:
    return _shrink(document, widths=False)


def _all_small(document: dict[str, Any]) -> dict[str, Any]:
    return _shrink(document, widths=True)


def _shrink(document: dict[str, Any], *, widths: bool) -> dict[str, Any]:
    layers = _layer_count(document)
    counts = {value for key, value in document.items() if _is_count(key, value)}
    made: dict[str, Any] = {}
    for key, value in document.items():
        if key in _CHOSEN:
            continue
        if isinstance(value, dict):
            named = all(isinstance(one, str) for one in value)  # by numbers it is no configuration
            made[key] = _shrink(value, widths=widths) if named else value
        elif isinstance(value, list) and value and len(value) in counts and _plain(value):
            kinds = list(dict.fromkeys(value)) if isinstance(value[0], str) else value
            made[key] = [kinds[at % len(kinds)] for at in range(layers)]
        elif isinstance(value, list) and value and all(_is_int(one) for one in value) and key != "mrope_section":
            made[key] = _shrunk_list(key, value) if widths else value
        elif key == "num_kv_shared_layers":
            made[key] = 0  # each kind of layer needs one that shares with none
        elif _is_count(key, value):
            made[key] = min(value, layers)
        elif key == "mrope_section":
            made[key] = [2, 1, 1] if widths else value  # half of a head
        elif _is_int(value):
            alike = value == document.get("num_attention_heads") and "key_value" in key
            made[key] = _shrunk("num_attention_heads" if alike else key, value, widths=widths)
        else:
            made[key] = value
    return made


def _is_int(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _plain(values: list[Any]) -> bool:
    return all(isinstance(one, str | int) or one is None for one in values)


def _is_count(key: str, value: Any) -> bool:
    return _is_int(value) and value > 1 and _LAYERS.search(key) is not None


def _layer_count(document: Mapping[str, Any]) -> int:
    """Two, or as many as there are kinds of layers."""
    counts = {value for key, value in document.items() if _is_count(key, value)}
    kinds = [
        len(set(value))
        for value in document.values()
        if isinstance(value, list) and len(value) in counts and value and isinstance(value[0], str)
    ]
    return max([2, *kinds])


def _shrunk(key: str, value: int, *, widths: bool) -> int:
    if key.endswith(("num_labels", "layer_idx", "max_window_layers")) or value <= 2:
        return value
    if _SPECIAL.search(key):
        return value if value < 60 else value % 60
    for pattern, most in _RULES[: None if widths else 5]:
        if re.search(pattern, key):
            return min(value, most) if most else value
    if re.search(r"first_k_dense|dense_layers", key):
        return 1
    return value


def _shrunk_list(key: str, values: list[int]) -> list[int]:
    if re.search(r"depth|layer|block|repeat", key):
        return [min(value, 2) for value in values]
    least = min(values)
    if re.search(r"hidden|dim|size|channel|width", key) and least > 16 and not re.search(r"image|crop|kernel", key):
        return [max(8, value * 16 // least) for value in values]
    return values
