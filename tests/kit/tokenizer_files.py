"""A tokenizer that works, written by hand: one word one token, as the `tokenizers` library stores it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Final

SPECIAL = ("<unk>", "<s>", "</s>", "<pad>")
WORDS: Final = (
    "where is my order the a to and please send it back refund invoice room for two nights late early thanks hello "
    "you we have not received can I change cancel booking parcel yes no"
)
CHAT = "{% for message in messages %}{{ message['content'] }} {% endfor %}"


def add_working_tokenizer(folder: Path, vocab: int = 40) -> None:
    """Files beside the weights that `AutoTokenizer` makes a tokenizer of; ids are below ``vocab``."""
    words = [*SPECIAL, *WORDS.split()]
    assert len(set(words)) == len(words) <= vocab
    added = [
        {"id": number, "content": word, "special": True}
        | dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
        for number, word in enumerate(SPECIAL)
    ]
    written = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": added,
        "normalizer": None,
        "pre_tokenizer": {"type": "Whitespace"},
        "post_processor": None,
        "decoder": None,
        "model": {"type": "WordLevel", "vocab": {word: n for n, word in enumerate(words)}, "unk_token": "<unk>"},
    }
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",  # of every generation of transformers
        "model_max_length": 64,
        "model_input_names": ["input_ids", "attention_mask"],
        "unk_token": "<unk>",
        "bos_token": "<s>",
        "eos_token": "</s>",
        "pad_token": "<pad>",
        "clean_up_tokenization_spaces": False,
    }
    (folder / "tokenizer.json").write_text(json.dumps(written))
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    (folder / "chat_template.jinja").write_text(CHAT)
