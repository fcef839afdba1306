"""The LoRA configurations that PEFT's own tests go through, written again as data: a row a configuration.

Taken from the tests of PEFT 0.21: those of nets of one's own, decoders, encoders with decoders, feature extraction,
classifiers, images, parameters of experts, token rows, initial weights, variants and blocks. Configurations of other
methods than LoRA are none of the registry's (it refuses them by their ``peft_type``).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from tests.architectures.links import CONVERTED, Options


@dataclass(frozen=True)
class Row:
    """A configuration, and how an adapter with it is refused, if it is."""

    model: str  # a name of `NETS`, or a type and a class of transformers: bert:BertModel
    options: Options  # of `LoraConfig`
    refused: str = ""  # the code by which the registry refuses it
    parted: bool = False  # ties are undone before it is trained: PEFT merges both sides into one

    @property
    def id(self) -> str:
        """For people and for drawing: model and arguments."""
        return f"{self.model}: " + ", ".join(f"{name}={value}" for name, value in self.options.items())


_LIN0: Final = {"target_modules": ["lin0"]}
_LIN1: Final = {"target_modules": ["lin1"]}
_BOTH: Final = {"target_modules": ["lin0", "lin1"]}
_DORA: Final = {"use_dora": True}
_BIASED: Final = {"lora_bias": True, "lora_alpha": 32}
_PATTERNED: Final = {
    "target_modules": ["lin0", "lin1"],
    "r": 4,
    "rank_pattern": {f"layers.{block}.lin{line}": 8 // (block + 1) for block in range(3) for line in range(2)},
    "alpha_pattern": {f"layers.{block}.lin{line}": 16 // (block + 1) for block in range(3) for line in range(2)},
}
_SCALES: Final = {"lora_alpha": 17, "r": 5, "rank_pattern": {"emb": 3}, "alpha_pattern": {"conv1d": 11, "lin0": 13}}

_OWN: Final[Mapping[str, tuple[Options, ...]]] = {
    "mlp": (
        {"target_modules": "lin0"},
        _LIN0,
        _LIN1,
        _BOTH,
        {**_LIN0, "modules_to_save": ["lin1"]},
        {**_LIN0, "lora_alpha": 4, "lora_dropout": 0.1},
        {**_LIN0, **_DORA},
        {**_BOTH, **_DORA},
        {"target_modules": "lin1", **_DORA, "lora_alpha": 32},
        {**_LIN0, "init_lora_weights": "mica", "r": 4},
        {**_LIN0, "velora_config": {"num_groups": 2, "init_type": "random"}},
        {**_BOTH, "velora_config": {"num_groups": 2, "init_type": "batch_average"}},
        {**_LIN0, "velora_config": {"num_groups": 2, "init_type": "batch_average_once"}},
        {**_LIN0, "monteclora_config": {"num_samples": 2}},
        {**_BOTH, "monteclora_config": {"num_samples": 4}, "lora_alpha": 16},
        {**_BOTH, **_BIASED},
        {**_BOTH, "lora_bias": True},
        {**_LIN0, "target_parameters": ["lin1.weight"]},
        {"target_parameters": ["lin0.weight"]},
        {"target_parameters": ["lin1.weight"]},
        {**_BOTH, "use_bdlora": {"target_modules_bd_a": ["lin0"], "match_strict": False}},
        {**_BOTH, "use_bdlora": {"target_modules_bd_b": ["lin1"], "nblocks": 2, "match_strict": False}},
        {**_BOTH, "use_bdlora": {"target_modules_bd_a": ["lin0"], "target_modules_bd_b": ["lin1"], "nblocks": 2}},
        {**_LIN0, "r": 16},
        {**_LIN0, "r": 2},
        {**_BOTH, "r": 8, "rank_pattern": {"lin0": 2}},
        {**_BOTH, "r": 8, "rank_pattern": {"lin0": 16}},
        {**_BOTH, "lora_alpha": 8, "rank_pattern": {"lin0": 4}, "alpha_pattern": {"lin0": 4}},
        {**_LIN0, "use_rslora": True, "lora_alpha": 16},
        {**_BOTH, "use_rslora": True, "rank_pattern": {"lin1": 3}, "alpha_pattern": {"lin0": 11}},
        {**_LIN0, "bias": "all"},
        {**_LIN0, "bias": "lora_only"},
        {**_BOTH, **_DORA, "bias": "all"},
        {"target_modules": "lin.*", "exclude_modules": "lin0"},
        {**_BOTH, "exclude_modules": ["lin0"]},
        {"target_modules": ".*", "exclude_modules": r"(?!lin1).*"},
        {**_LIN0, "init_lora_weights": False},
        {**_LIN0, "init_lora_weights": "gaussian"},
        {**_LIN0, "init_lora_weights": "orthogonal"},
        {**_LIN0, "layers_to_transform": None, "layers_pattern": []},
    ),
    "mlp-no-bias": ({**_BOTH, "bias": "all"}, {**_BOTH, "r": 3}),
    "mlp-norm": ({**_LIN0, "modules_to_save": ["layernorm0", "layernorm1"]}, {**_LIN1, "bias": "all"}),
    "mlp-gru": ({**_LIN0, "modules_to_save": ["gru"]}, {**_LIN0, "bias": "all"}),
    "blocks": (
        _PATTERNED,
        {**_BOTH, "layers_to_transform": [1]},
        {**_BOTH, "layers_to_transform": [0, 2], "layers_pattern": "layers"},
        {"target_modules": ["lin0"], "layers_to_transform": 2, "layers_pattern": ["h", "layers"], **_DORA},
        {"target_modules": r".*layers\.[01]\.lin1"},
        {"target_modules": ["layers.0.lin0", "head"], "exclude_modules": ["lin1"]},
        {**_BOTH, "modules_to_save": ["head"], "alpha_pattern": {"0.lin0": 2}},
    ),
    "words": (
        {"target_modules": ["conv1d"]},
        {"target_modules": ["emb"]},
        {"target_modules": ["emb", "conv1d"]},
        {"target_modules": ["conv1d"], **_DORA},
        {"target_modules": ["emb"], **_DORA},
        {"target_modules": ["emb", "conv1d"], **_DORA},
        {"target_modules": ["conv1d"], "trainable_token_indices": {"emb": [0, 10]}},
        {"target_modules": ["conv1d"], "trainable_token_indices": {"emb": [0, 1, 2]}},
        {**_LIN0, "trainable_token_indices": {"emb": [0, 1, 2]}},
        {**_LIN0, "trainable_token_indices": {"emb": [3, 4, 5, 6]}},
        {"target_modules": ["emb", "conv1d"], "r": 16},
        {"target_modules": ["emb", "conv1d"], "modules_to_save": ["lin0"]},
        {"target_modules": ["lin0", "emb"]},
        {"target_modules": r"^emb"},
        {"target_modules": ["lin0", "emb", "conv1d"], **_SCALES},
        {"target_modules": ["lin0", "emb", "conv1d"], **_SCALES, "use_rslora": True},
        {"target_modules": ["emb"], "init_lora_weights": "gaussian"},
        {"target_modules": ["emb"], "init_lora_weights": "mica", "r": 3},
        {"target_modules": ["conv1d"], "modules_to_save": ["emb"]},
    ),
    "words-embed_tokens": (
        {"target_modules": ["lin0", "embed_tokens"]},
        {"target_modules": r"^embed_tokens"},
        {**_LIN0, "trainable_token_indices": {"embed_tokens": [0, 1, 3]}},
    ),
    "conv1d": ({"target_modules": ["conv1d"]}, {"target_modules": ["conv1d"], **_DORA}),
    "conv1d-wide": ({"target_modules": ["conv1d"]}, {"target_modules": ["conv1d", "lin0"], **_BIASED}),
    "conv1d-point": ({"target_modules": ["conv1d"]}, {"target_modules": ["conv1d"], **_DORA}),
    "conv2d": (
        {"target_modules": ["conv2d"]},
        {"target_modules": ["conv2d", "lin0"]},
        {"target_modules": ["conv2d"], **_DORA},
        {"target_modules": ["conv2d", "lin0"], **_DORA},
        {"target_modules": ["conv2d"], **_BIASED},
        {"target_modules": ["conv2d"], "r": 16},
        {**_LIN0, "modules_to_save": ["conv2d"]},
        {"target_modules": ["conv2d", "lin0"], "bias": "all"},
        {"target_modules": ["conv2d", "lin0"], "bias": "lora_only"},
        {"target_modules": ["conv2d"], "init_lora_weights": "gaussian"},
        {"target_modules": ["conv2d"], "use_rslora": True, "rank_pattern": {"conv2d": 6}},
    ),
    "conv2d-no-bias": ({"target_modules": ["conv2d"], **_DORA}, {"target_modules": ["conv2d"], "bias": "all"}),
    "conv2d-point": ({"target_modules": ["conv2d"]}, {"target_modules": ["conv2d"], **_DORA}),
    "conv3d": (
        {"target_modules": ["conv3d"]},
        {"target_modules": ["conv3d", "lin0"]},
        {"target_modules": ["conv3d"], **_DORA},
        {"target_modules": ["conv3d", "lin0"], **_DORA},
        {"target_modules": ["conv3d"], **_BIASED},
    ),
    "mha": (
        {"target_modules": ["mha"]},
        {"target_modules": ["mha", "lin0"]},
        {"target_modules": ["mha"], "r": 16},
        {**_LIN0, "modules_to_save": ["mha"]},
        {**_LIN0, "bias": "all"},
    ),
    "conv3d-flat": ({"target_modules": ["conv3d"]},),
    "parameters": (
        {"target_parameters": ["lin0.weight"]},
        {"target_parameters": ["lin1.weight"]},
        {"target_parameters": ["lin0.weight", "lin1.weight"], "rank_pattern": {"lin1.weight": 1}},
    ),
}
"""Net -> configurations whose adapters are merged and composed."""

_CONVERTED: Final[tuple[Options, ...]] = tuple(
    {**_LIN0, "r": 8, "init_lora_weights": way, **more, CONVERTED: True}
    for way in ("pissa", "olora")
    for more in ({}, {"rank_pattern": {"lin0": 9}}, {"alpha_pattern": {"lin0": 5}}, {"use_rslora": True})
)
"""Saved as PEFT's tests save them: as a change of the weights as they were."""

_REFUSED: Final[tuple[Row, ...]] = (
    Row("mlp", {**_LIN0, "kasa_config": {}, "r": 4}, "base_shifting_init"),
    *(
        Row("mlp", {**_LIN0, "init_lora_weights": way, "r": 4}, "base_shifting_init")
        for way in ("pissa", "pissa_niter_16", "olora")
    ),
    *(
        Row("words-undeclared", {"target_modules": targets, **more}, "shape_mismatch")
        for targets in (["conv1d"], ["emb", "conv1d"])
        for more in ({}, _DORA)
    ),
    Row("mlp-no-bias", {**_BOTH, **_BIASED}, "not_mergeable"),
    Row("conv1d-groups", {"target_modules": ["conv1d"]}, "not_mergeable"),
    Row("conv2d-groups", {"target_modules": ["conv2d"]}, "not_mergeable"),
    Row("conv2d-groups", {"target_modules": ["conv2d"], **_DORA}, "not_mergeable"),
    Row("conv2d-two-groups", {"target_modules": ["conv2d"]}, "not_mergeable"),
    Row("conv2d-two-groups", {"target_modules": ["conv2d"], **_DORA}, "not_mergeable"),
)
"""What the registry does not take."""

_CAUSAL: Final = {"task_type": "CAUSAL_LM", "r": 8, "lora_alpha": 32, "lora_dropout": 0.05}
_TOKENS: Final = {"trainable_token_indices": [0, 1, 3]}
_DECODERS: Final = (
    "opt:OPTForCausalLM", "gpt2:GPT2LMHeadModel", "gptj:GPTJForCausalLM", "llama:LlamaForCausalLM",
    "qwen2:Qwen2ForCausalLM", "gemma3_text:Gemma3ForCausalLM",
)  # fmt: skip
_SEQ2SEQ: Final = ("t5:T5ForConditionalGeneration", "bart:BartForConditionalGeneration")
_FEATURES: Final = ("bert:BertModel", "roberta:RobertaModel", "deberta:DebertaModel", "deberta-v2:DebertaV2Model")
_CLASSIFIERS: Final = (
    "bert:BertForSequenceClassification", "roberta:RobertaForSequenceClassification",
    "llama:LlamaForSequenceClassification",
)  # fmt: skip
_EXPERTS: Final = (
    ("llama4_text:Llama4ForCausalLM", "feed_forward.experts"),
    ("gpt_oss:GptOssForCausalLM", "mlp.experts"),
)


def _of_transformers() -> Iterator[Row]:
    for task, models in (
        ("CAUSAL_LM", _DECODERS),
        ("SEQ_2_SEQ_LM", _SEQ2SEQ),
        ("FEATURE_EXTRACTION", _FEATURES),
        ("SEQ_CLS", _CLASSIFIERS),
    ):
        for model in models:
            yield Row(model, {**_CAUSAL, "task_type": task})
            yield Row(model, {**_CAUSAL, "task_type": task, **_TOKENS})
    for model in _DECODERS:
        yield Row(model, {"task_type": "CAUSAL_LM", **_DORA})
    for model in ("llama:LlamaForCausalLM", "opt:OPTForCausalLM"):
        yield Row(model, {**_CAUSAL, "alora_invocation_tokens": [1]}, "not_mergeable")
        yield Row(model, {**_CAUSAL, "alora_invocation_tokens": [1000]}, "not_mergeable")
    for model in ("llama:LlamaForCausalLM", "gpt2:GPT2LMHeadModel", "t5:T5ForConditionalGeneration",
                  "gpt_neox:GPTNeoXForCausalLM"):  # fmt: skip
        yield Row(model, {"target_modules": "all-linear"})
    for model, tokens in (("llama:LlamaForCausalLM", "embed_tokens"), ("t5:T5ForConditionalGeneration", "shared"),
                          ("opt:OPTForCausalLM", "embed_tokens")):  # fmt: skip
        yield Row(model, {"target_modules": "all-linear", "trainable_token_indices": {tokens: [0, 1, 3]}})
    llama = "llama:LlamaForCausalLM"
    yield Row(llama, {"target_modules": ["q_proj"], "trainable_token_indices": [0, 1]})
    yield Row(llama, {"target_modules": ["embed_tokens"]})
    yield Row(llama, {"target_modules": r".*\.embed_tokens"})
    yield Row(llama, {"target_modules": ["embed_tokens", "lm_head", "q_proj"]})
    yield Row(llama, {"target_modules": ["embed_tokens"], **_DORA})
    yield Row("gemma3_text:Gemma3ForCausalLM", {"target_modules": ["embed_tokens"]}, parted=True)
    yield Row("gemma3_text:Gemma3ForCausalLM", {"target_modules": ["embed_tokens"], **_DORA}, parted=True)
    yield Row(llama, {"target_modules": ".*(q_proj|v_proj)$"})
    yield Row(llama, {"target_modules": ["q_proj", "v_proj"], "modules_to_save": ["embed_tokens"]})
    yield Row(llama, {"target_modules": ["q_proj", "v_proj"], "modules_to_save": ["lm_head"]})
    yield Row(llama, {"target_modules": ["down_proj", "up_proj"], "task_type": "CAUSAL_LM",
                      "layer_replication": [[0, 1], [0, 2], [1, 2]]}, "layer_replication")  # fmt: skip
    yield Row("bert:BertForTokenClassification", {"task_type": "TOKEN_CLS", "r": 16, "lora_alpha": 16, "bias": "all"})
    images = {"target_modules": ["convolution"], "modules_to_save": ["classifier", "normalization"]}
    yield Row("resnet:ResNetForImageClassification", images)
    yield Row("clip_text_model:CLIPTextModel", {
        "target_modules": ["k_proj", "q_proj", "v_proj", "out_proj", "fc1", "fc2"], "r": 8, "lora_alpha": 32,
    })  # fmt: skip
    for model, experts in _EXPERTS:
        gate_up, down = f"{experts}.gate_up_proj", f"{experts}.down_proj"
        yield Row(model, {"target_modules": [], "target_parameters": [down]})
        yield Row(model, {"target_modules": [], "target_parameters": [f"0.{gate_up}", f"1.{down}"]})
        yield Row(model, {**_CAUSAL, "lora_dropout": 0.0, "target_parameters": [down, gate_up]})
        yield Row(model, {"target_modules": ["q_proj", "v_proj"], "target_parameters": [down]})
    model, experts = _EXPERTS[0]
    ranks = {"experts.down_proj": 3}
    yield Row(model, {"target_modules": [], "target_parameters": [f"{experts}.down_proj"], "rank_pattern": ranks})


OWN: Final[tuple[Row, ...]] = (
    *(Row(net, options) for net, rows in _OWN.items() for options in rows),
    *(Row("mlp", options) for options in _CONVERTED),
    *_REFUSED,
)
"""Rows of nets that transformers does not know."""

TRANSFORMERS: Final[tuple[Row, ...]] = tuple(_of_transformers())
"""Rows of models that transformers knows, all of them tiny."""
