"""A tiny `BertForMaskedLM` written by hand: a head that is tied to its embedding, and a bias that it shares."""

from __future__ import annotations

from pathlib import Path

from tests.kit.bases import Base, Module, write_base

BIAS = "cls.predictions.bias"
HEAD = "cls.predictions.decoder"
EMBEDDING = "bert.embeddings.word_embeddings"
QUERY = "bert.encoder.layer.0.attention.self.query"
_HIDDEN, _VOCABULARY = 16, 40


def masked_base(folder: Path, *, seed: int = 0) -> Base:
    """The head and its bias have one tensor each in the files: the embedding's, and ``cls.predictions.bias``."""
    shapes: dict[str, tuple[int, ...]] = {
        f"{EMBEDDING}.weight": (_VOCABULARY, _HIDDEN),
        "bert.embeddings.position_embeddings.weight": (32, _HIDDEN),
        "bert.embeddings.token_type_embeddings.weight": (2, _HIDDEN),
    }
    linear = {
        "attention.self.query": (_HIDDEN, _HIDDEN),
        "attention.self.key": (_HIDDEN, _HIDDEN),
        "attention.self.value": (_HIDDEN, _HIDDEN),
        "attention.output.dense": (_HIDDEN, _HIDDEN),
        "intermediate.dense": (24, _HIDDEN),
        "output.dense": (_HIDDEN, 24),
    }
    lead = "bert.encoder.layer.0."
    linear = {f"{lead}{name}": shape for name, shape in linear.items()}
    linear["cls.predictions.transform.dense"] = (_HIDDEN, _HIDDEN)
    for name, shape in linear.items():
        shapes |= {f"{name}.weight": shape, f"{name}.bias": shape[:1]}
    norms = ("bert.embeddings", f"{lead}attention.output", f"{lead}output", "cls.predictions.transform")
    for name in norms:
        shapes |= {f"{name}.LayerNorm.weight": (_HIDDEN,), f"{name}.LayerNorm.bias": (_HIDDEN,)}
    shapes[BIAS] = (_VOCABULARY,)
    config = {
        "architectures": ["BertForMaskedLM"],
        "hidden_act": "gelu",
        "hidden_size": _HIDDEN,
        "intermediate_size": 24,
        "max_position_embeddings": 32,
        "model_type": "bert",
        "num_attention_heads": 2,
        "num_hidden_layers": 1,
        "pad_token_id": 0,
        "tie_word_embeddings": True,
        "type_vocab_size": 2,
        "vocab_size": _VOCABULARY,
    }
    write_base(folder, config, shapes, "F32", seed, 1, 0.1)
    modules = {
        HEAD: Module(HEAD, f"{EMBEDDING}.weight", "linear", (_VOCABULARY, _HIDDEN)),
        EMBEDDING: Module(EMBEDDING, f"{EMBEDDING}.weight", "embedding", (_VOCABULARY, _HIDDEN)),
        QUERY: Module(QUERY, f"{QUERY}.weight", "linear", (_HIDDEN, _HIDDEN)),
    }
    return Base(folder, modules, "BertForMaskedLM")
