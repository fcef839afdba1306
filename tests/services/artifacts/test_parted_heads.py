"""Heads that part from their embedding in models whose flag ties more than that: what transformers loads is whole.

For every class of transformers' masked language models, and those that it pre-trains, where the flag ties a bias too:
an adapter on the head, one on the embedding, one that replaces the head. Loaded, the merged model has no missing and no
unexpected key, and computes what the model computed with the adapter as PEFT trained it.
"""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest
import torch
import transformers

from registry.services.local import LocalRegistry
from tests.kit.peers import between_themselves, wrap

SMALL: Final[dict[str, Any]] = {
    "vocab_size": 60, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32,
    "max_position_embeddings": 64, "embedding_size": 16, "emb_dim": 16, "type_vocab_size": 2, "num_labels": 2,
    "pad_token_id": 1, "bos_token_id": 0, "eos_token_id": 2, "cls_token_id": 0, "sep_token_id": 2,
    "true_hidden_size": 16, "intra_bottleneck_size": 16, "num_feedforward_networks": 1, "q_groups": 1, "k_groups": 1,
    "v_groups": 1, "post_attention_groups": 1, "intermediate_groups": 1, "output_groups": 1, "attention_window": 8,
    "block_size": 4, "num_random_blocks": 1, "tpu_short_seq_length": 16, "pronunciation_embed_dim": 16,
    "pronunciation_vocab_size": 20, "shape_embed_dim": 16, "shape_vocab_size": 20, "max_2d_position_embeddings": 32,
    "num_landmarks": 4, "segment_means_seq_len": 16, "num_hash": 2, "visual_embedding_dim": 16, "n_embd": 16,
    "languages": ["en_XX"], "default_language": "en_XX", "adapter_reduction_factor": 2, "num_key_value_heads": 2,
    "head_dim": 8, "n_positions": 64, "n_inner": 32, "n_head": 2, "n_layer": 2,
}  # fmt: skip
OTHERWISE: Final[dict[str, dict[str, Any]]] = {"mobilebert": {"embedding_size": 8}}
QUICK: Final = ("BertForMaskedLM", "RobertaForMaskedLM", "AlbertForMaskedLM")
LINKS: Final = ("head", "embedding", "replaced")
NOT_IN_PEFT: Final = {
    ("IBertForMaskedLM", "embedding"): "PEFT knows no quantised embedding",
    ("MobileBertForMaskedLM", "head"): "its forward reads the head's weight past PEFT's wrapper, so nothing is trained",
    ("MobileBertForPreTraining", "head"): "its forward reads the head's weight past PEFT's wrapper",
}
IDS: Final = torch.arange(3, 19)[None]


def _classes() -> list[str]:
    """Names of the classes whose flag ties a bias too, in this transformers; imports every model, so ten seconds."""
    found = []
    for mapping in (transformers.MODEL_FOR_MASKED_LM_MAPPING, transformers.MODEL_FOR_PRETRAINING_MAPPING):
        for made in mapping.values():
            for one in made if isinstance(made, tuple) else (made,):
                ties = getattr(one, "_tied_weights_keys", None) or {}
                if isinstance(ties, dict) and any(name.endswith("bias") for name in ties) and one.__name__ not in found:
                    found.append(one.__name__)
    return sorted(found)


# fmt: off
NAMES: Final = (
    "AlbertForMaskedLM", "AlbertForPreTraining", "BertForMaskedLM", "BertForPreTraining", "BigBirdForMaskedLM",
    "BigBirdForPreTraining", "CamembertForMaskedLM", "Data2VecTextForMaskedLM", "DebertaForMaskedLM",
    "DebertaV2ForMaskedLM", "ErnieForMaskedLM", "ErnieForPreTraining", "FNetForMaskedLM", "FNetForPreTraining",
    "IBertForMaskedLM", "JinaEmbeddingsV3ForMaskedLM", "LayoutLMForMaskedLM", "LongformerForMaskedLM",
    "LukeForMaskedLM", "MPNetForMaskedLM", "MegatronBertForMaskedLM", "MegatronBertForPreTraining",
    "MobileBertForMaskedLM", "MobileBertForPreTraining", "MraForMaskedLM", "NomicBertForMaskedLM",
    "NystromformerForMaskedLM", "RoCBertForMaskedLM", "RoCBertForPreTraining", "RoFormerForMaskedLM",
    "RobertaForMaskedLM", "RobertaPreLayerNormForMaskedLM", "SqueezeBertForMaskedLM", "TapasForMaskedLM",
    "XLMRobertaForMaskedLM", "XLMRobertaXLForMaskedLM", "XmodForMaskedLM", "YosoForMaskedLM",
)
# fmt: on
"""What `_classes` finds; a test compares. Written down, as each test process would import every model for it."""
LEFT_OUT: Final = {"FlavaForPreTraining", "VisualBertForPreTraining"}  # of several inputs, and too large
HERE: Final = frozenset(dir(transformers))
CLASSES: Final = [
    pytest.param(name, marks=[] if name in QUICK else pytest.mark.long)
    for name in NAMES
    if name in HERE  # versions differ
]


@pytest.fixture
def registry(tmp_path: Path) -> Iterator[LocalRegistry]:
    opened = LocalRegistry.open(tmp_path / "registry", cache_folder=tmp_path / "cache")
    yield opened
    opened.close()


def small(cls: Any) -> Any:
    """A model of the class with random biases."""
    maker = cls.config_class
    known = {*inspect.signature(maker.__init__).parameters, *getattr(maker, "__dataclass_fields__", ())}
    torch.manual_seed(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        sizes = {name: value for name, value in SMALL.items() if name in known} | OTHERWISE.get(maker.model_type, {})
        model = cls(maker(**sizes))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("bias"):
                parameter.normal_(std=0.3)
    return model


def outputs(model: Any) -> torch.Tensor:
    with torch.no_grad():
        out = model.eval()(input_ids=IDS)
    found: torch.Tensor = out["logits"] if "logits" in out else out["prediction_logits"]
    return found


def name_of(model: Any, module: Any) -> str:
    return next(str(name) for name, one in model.named_modules() if one is module)


@pytest.mark.parametrize("name", CLASSES)
def test_what_is_loaded_is_what_was_trained(registry: LocalRegistry, tmp_path: Path, name: str) -> None:
    cls = getattr(transformers, name)
    model = small(cls)
    head, embedding = (name_of(model, one) for one in (model.get_output_embeddings(), model.get_input_embeddings()))
    plain = next(one for one, module in model.named_modules() if type(module) is torch.nn.Linear and one != head)
    model.save_pretrained(tmp_path / "base")
    registry.add_base("net", tmp_path / "base")
    tied = model.get_output_embeddings().weight is model.get_input_embeddings().weight
    before = outputs(cls.from_pretrained(tmp_path / "base"))
    options: dict[str, dict[str, Any]] = {
        "head": {"target_modules": [plain, head]},
        "embedding": {"target_modules": [plain, embedding]},
        "replaced": {"target_modules": [plain], "modules_to_save": [head]},
    }
    for link in LINKS:
        if (name, link) in NOT_IN_PEFT:
            continue
        adapter, merged = tmp_path / link, tmp_path / f"{link}-merged"
        with between_themselves():
            trained = outputs(wrap(adapter, cls.from_pretrained(tmp_path / "base"), r=2, b_scale=0.3, **options[link]))
        registry.publish(adapter, f"net/{link}")
        registry.fetch(f"net/{link}", merged, kind="merged")
        loaded, info = cls.from_pretrained(merged, output_loading_info=True)
        assert not info["missing_keys"], link
        assert not info["unexpected_keys"], link
        assert loaded.config.tie_word_embeddings is (not tied)
        assert torch.allclose(outputs(loaded), trained, atol=1e-4), link
        assert not torch.allclose(before, trained, atol=1e-3), link


@pytest.mark.long
def test_all_types_are_tried() -> None:
    """A version of transformers that has another class of this kind fails here until it is in the list."""
    assert set(_classes()) - LEFT_OUT == {str(param.values[0]) for param in CLASSES}


@pytest.mark.parametrize(
    ("outer", "encoder", "decoder"),
    [
        pytest.param("EncoderDecoderModel", "bert", "bert", marks=pytest.mark.slow),
        pytest.param("VisionEncoderDecoderModel", "vit", "roberta", marks=pytest.mark.slow),
        pytest.param("SpeechEncoderDecoderModel", "wav2vec2", "bert", marks=pytest.mark.slow),
    ],
)
def test_a_decoder_inside(registry: LocalRegistry, tmp_path: Path, outer: str, encoder: str, decoder: str) -> None:
    """The flag that ties is that of the decoder's own configuration."""
    cls = getattr(transformers, outer)
    model = _with_decoder(cls, encoder, decoder)
    head = name_of(model, model.get_output_embeddings())
    model.save_pretrained(tmp_path / "base")
    registry.add_base("net", tmp_path / "base")
    base = cls.from_pretrained(tmp_path / "base")
    with between_themselves():
        trained = wrap(tmp_path / "head", base, r=2, b_scale=0.3, target_modules=["query", head])
    registry.publish(tmp_path / "head", "net/head")
    registry.fetch("net/head", tmp_path / "merged", kind="merged")
    loaded, info = cls.from_pretrained(tmp_path / "merged", output_loading_info=True)
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    given = _given(encoder)
    with torch.no_grad():
        expected, found = trained(**given).logits, loaded.eval()(**given).logits
        assert torch.allclose(found, expected, atol=1e-4)
        assert not torch.allclose(cls.from_pretrained(tmp_path / "base").eval()(**given).logits, expected, atol=1e-3)


def _with_decoder(cls: Any, encoder: str, decoder: str) -> Any:
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 24}
    more: dict[str, Any] = {
        "bert": {"vocab_size": 60, "max_position_embeddings": 32},
        "roberta": {"vocab_size": 60, "max_position_embeddings": 32},
        "vit": {"image_size": 16, "patch_size": 8},
        "wav2vec2": {
            "conv_dim": [8], "conv_kernel": [4], "conv_stride": [4], "num_feat_extract_layers": 1,
            "num_conv_pos_embeddings": 4, "num_conv_pos_embedding_groups": 2,
        },
    }  # fmt: skip
    inner = transformers.AutoConfig.for_model(encoder, **sizes, **more[encoder])
    other = transformers.AutoConfig.for_model(decoder, **sizes, **more[decoder], tie_word_embeddings=True)
    config = cls.config_class.from_encoder_decoder_configs(inner, other)
    torch.manual_seed(0)
    model = cls(config)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("bias"):
                parameter.normal_(std=0.3)
    return model


def _given(encoder: str) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(3)
    first = {
        "vit": ("pixel_values", (1, 3, 16, 16)),
        "wav2vec2": ("input_values", (1, 200)),
    }.get(encoder)
    given = {"input_ids": IDS} if first is None else {first[0]: torch.randn(*first[1], generator=generator)}
    return given | {"decoder_input_ids": IDS}


@pytest.mark.slow
@pytest.mark.parametrize("module", ["lm_head", "embedding_projection"])
def test_two_pairs_under_one_switch(registry: LocalRegistry, tmp_path: Path, module: str) -> None:
    """NeoMME ties two pairs of weights by one flag: where one pair parts, the other needs its tensors, too."""
    cls = transformers.NeoMMEForMaskedLM
    sizes = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2}
    ids = {"pad_token_id": 1, "bos_token_id": 0, "eos_token_id": 2}
    torch.manual_seed(0)
    config = cls.config_class(vocab_size=60, intermediate_size=32, head_dim=16, embedding_rank=16, **sizes, **ids)
    cls(config).save_pretrained(tmp_path / "base")
    registry.add_base("net", tmp_path / "base")
    with between_themselves():
        wrapped = wrap(
            tmp_path / "a", cls.from_pretrained(tmp_path / "base"), r=2, b_scale=0.3, target_modules=[module]
        )
    registry.publish(tmp_path / "a", "net/a")
    registry.fetch("net/a", tmp_path / "merged", kind="merged")
    loaded, info = cls.from_pretrained(tmp_path / "merged", output_loading_info=True)
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    assert torch.allclose(outputs(loaded), outputs(wrapped), atol=1e-4)


def test_token_rows_and_a_bias_get_a_notice(registry: LocalRegistry, tmp_path: Path) -> None:
    cls = transformers.BertForMaskedLM
    small(cls).save_pretrained(tmp_path / "base")
    registry.add_base("net", tmp_path / "base")
    base = cls.from_pretrained(tmp_path / "base")
    wrapped = wrap(tmp_path / "rows", base, r=2, target_modules=["query"], trainable_token_indices=[3, 7])
    trained = outputs(wrapped)
    published = registry.publish(tmp_path / "rows", "net/rows")
    notices = [notice for notice in published.revision.notices if "PEFT leaves the bias out" in notice]
    assert len(notices) == 1
    assert "'cls.predictions.decoder'" in notices[0]
    registry.fetch("net/rows", tmp_path / "merged", kind="merged")
    loaded = cls.from_pretrained(tmp_path / "merged")
    # exactly the bias is what they differ in
    assert torch.allclose(outputs(loaded), trained + loaded.cls.predictions.bias, atol=1e-4)
