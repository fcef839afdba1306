"""The JSON files of a merged model say what its weights are."""

from __future__ import annotations

from registry.files.header import write_header
from registry.tensors.artifacts.merged import index_of, untied_config


def test_an_untied_model_says_so_at_every_level() -> None:
    config = {"tie_word_embeddings": True, "text_config": {"hidden_size": 8}, "vision": {"tie_word_embeddings": True},
              "audio": {"hidden_size": 4}}  # fmt: skip
    assert untied_config(config) == {
        "tie_word_embeddings": False,
        "text_config": {"hidden_size": 8, "tie_word_embeddings": False},
        "vision": {"tie_word_embeddings": False},
        "audio": {"hidden_size": 4},
    }
    assert untied_config({}) == {"tie_word_embeddings": False}
    assert config["tie_word_embeddings"] is True


def test_the_index_has_new_tensors_and_the_size_of_all() -> None:
    _, header = write_header([("old", "F32", (2, 3)), ("new", "F32", (5,))], {})
    index = {"metadata": {"total_size": 24, "made": "by hand"}, "weight_map": {"old": "1.safetensors"}}
    assert index_of(index, {"1.safetensors": header}) == {
        "metadata": {"total_size": 44, "made": "by hand"},
        "weight_map": {"old": "1.safetensors", "new": "1.safetensors"},
    }
