"""The independent test kit: real folders made quickly, and the right answer in float64; no code of `registry` in it.

Make folders (by hand, milliseconds, no torch)::

    from tests.kit import llama_base, gpt2_base, bert_base, plain_base, write_adapter, write_chain, add_tokenizer

    base = llama_base(tmp_path / "base", dtype="BF16", shards=3)    # also layers=, hidden=, vocab=, tied=
    add_tokenizer(base.folder)                                      # tokenizer-like files, nested ones too
    one = write_adapter(tmp_path / "1", base, ["q_proj", "v_proj"], r=4, alpha=8, rslora=True, dtype="F16")
    bad = write_adapter(tmp_path / "bad", base, ["q_proj"], config={"r": "4", "lora_alpha": ...})  # ... leaves out
    path = write_chain(tmp_path / "path", base, 3, ["q_proj"])      # three adapters, other seeds
    base.modules["model.layers.0.self_attn.q_proj"].oriented        # (out, in)

Change a folder at will: ``read_tensors`` / ``write_tensors`` (dicts of `RawTensor`), ``read_model`` / ``write_model``.

Of every variant (`tests.kit.recipes`, on more bases of `tests.kit.kinds_of_bases`)::

    base = mixtral_base(tmp_path / "base")            # also opt_, conv_, attention_, gpt_oss_, declared_base
    path = write_recipes(tmp_path / "path", base, [Recipe(("q_proj",), dora=True), Recipe(("w1", "w3"), seed=2)])
    VARIANTS["mixtral"]["fused"]                      # `tests.kit.variants`: named recipes for each of its MAKERS

The right answer::

    found = base.simulate(path)                       # .tensors, .untied, .state (parameters of the running model)
    merged = base.reference([one, two])        # tensor name -> MergedTensor(values float64, magnitude, touched)
    used_bound(merged, read_model(fetched))    # largest error as a share of its bound: at most 1 is right
    merged[name].rounded("BF16"), merged[name].bound("BF16")

Peers (seconds: they import transformers and PEFT), in `tests.kit.peers`: ``save_model``, ``wrap``, ``train_adapter``,
``peft_load``, ``peft_merge``, ``load_model``, ``with_weights``, ``logits``, ``no_complaints``.

A registry to try them on (the one module here that imports `registry`), in `tests.kit.shelf`: `Shelf` adds bases,
publishes paths under names of its own, and gives back tensors.
"""

from tests.kit.adapters import DEFAULTS, linear_names, write_adapter, write_chain
from tests.kit.bases import (
    Base,
    Module,
    add_integers,
    add_tokenizer,
    bert_base,
    gpt2_base,
    llama_base,
    plain_base,
)
from tests.kit.floats import FORMATS, from_bytes, round_once, spacing, to_bytes
from tests.kit.merged_tensor import MergedTensor, used_bound
from tests.kit.reference import read_pairs
from tests.kit.simulate import Simulated, simulate
from tests.kit.tensor_files import (
    RawTensor,
    other_files,
    read_model,
    read_tensors,
    write_model,
    write_tensors,
)

__all__ = [
    "DEFAULTS",
    "FORMATS",
    "Base",
    "MergedTensor",
    "Module",
    "RawTensor",
    "Simulated",
    "add_integers",
    "add_tokenizer",
    "bert_base",
    "from_bytes",
    "gpt2_base",
    "linear_names",
    "llama_base",
    "other_files",
    "plain_base",
    "read_model",
    "read_pairs",
    "read_tensors",
    "round_once",
    "simulate",
    "spacing",
    "to_bytes",
    "used_bound",
    "write_adapter",
    "write_chain",
    "write_model",
    "write_tensors",
]
