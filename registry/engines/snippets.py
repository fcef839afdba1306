"""How a revision is used with each tool: a row a tool, with the lines as they are copied. Tests run each as shown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final, Literal
from urllib.parse import quote

from registry.engines.checking import startable
from registry.engines.rules import ENGINES
from registry.reference import MAIN, Path, Reference
from registry.schemas import ArtifactKind, BaseSummary, Shown
from registry.schemas.artifacts import KINDS
from registry.schemas.form import EngineName

OnBase = Literal["language", "pipeline", "component", "checkpoint"]
"""What a base model is to tools: one of transformers; a pipeline of diffusers, a component of one, or one in a file."""
_LANGUAGE: Final[frozenset[OnBase]] = frozenset({"language"})
_IMAGE: Final[frozenset[OnBase]] = frozenset({"pipeline", "component", "checkpoint"})


@dataclass(frozen=True)
class Snippet:
    """What is typed to use a revision with one tool.

    Args:
        name: of the tool, in addresses.
        label: its name.
        about: what comes out.
        steps: pairs of a language and lines; words in braces are filled in.
        needs: the artifact that it can't do without; None: any of a whole path.
        engine: what loads it, if that may refuse it.
        on: the base models that the tool has to do with.
    """

    name: str
    label: str
    about: str
    steps: tuple[tuple[str, str], ...]
    needs: ArtifactKind | None = None
    engine: EngineName | None = None
    on: frozenset[OnBase] = _LANGUAGE


_CLI: Final = """export REGISTRY_URL={address}
registry fetch {reference} --as {kind} -o ./{name}"""
_PYTHON: Final = """{import_os}import registry

tree = registry.connect("{address}"{token})
tree.fetch("{reference}", "./{name}", kind="{kind}")

with tree.artifact("{reference}", kind="{kind}") as artifact:
    for name, tensor in artifact.tensors():
        print(name, tuple(tensor.shape))"""
_HUB: Final = "export HF_ENDPOINT={address}/{view}\n{hub_token}"
_PEFT: Final = """from peft import PeftModel
from transformers import {auto}

base = {auto}.from_pretrained("{base_id}")
model = PeftModel.from_pretrained(base, "{repo_id}", revision="{revision}")"""
_TRANSFORMERS: Final = """from transformers import {auto}{import_tokenizer}

model = {auto}.from_pretrained("{repo_id}", revision="{revision}"){tokenizer}"""
_VLLM: Final = """export REGISTRY_URL={address} REGISTRY_VLLM_BASE={base} REGISTRY_VLLM_MAX_RANK={rank}
export VLLM_ALLOW_RUNTIME_LORA_UPDATING=1
registry fetch {base} --as merged -o ./{base}
vllm serve ./{base} --served-model-name {base} --enable-lora --max-lora-rank {rank}"""
_ASK_VLLM: Final = """curl http://localhost:8000/v1/completions -H 'Content-Type: application/json' \\
  -d '{{"model": "{reference}", "prompt": "Hello"}}'"""
_LLAMA_CPP: Final = "llama-server -m {base}.gguf --lora ./{name}/adapter.gguf"
_MLX: Final = "mlx_lm.generate --model ./{base} --adapter-path ./{name} --prompt Hello"
_CURL: Final = """curl -fL --remote-name-all {header}\\
  '{address}/{view}/{repo_id}/resolve/{revision}/{{{files}}}'"""
_DIFFUSERS: Final = """from diffusers import DiffusionPipeline

pipe = DiffusionPipeline.from_pretrained("{base_id}")
pipe.load_lora_weights("{repo_id}", revision="{revision}")"""
_MERGED_IMAGE: Final = """from diffusers import {image_class}

model = {image_class}.from_pretrained("{repo_id}", revision="{revision}")"""
_CHECKPOINT: Final = """export REGISTRY_URL={address}
registry fetch {reference} --as merged -o ./{name}"""
_FOR: Final = """export REGISTRY_URL={address}
registry fetch {reference} --for """
_CURL_IMAGE: Final = """curl -fLO {header}\\
  '{address}/hf-lora/{repo_id}/resolve/{revision}/pytorch_lora_weights.safetensors'"""
_ROWS: Final = (
    Snippet(
        "cli", "Command", "{what}, in a folder, with the receipt that tells its parent when you train on it.",
        (("shell", _CLI),), on=_LANGUAGE | _IMAGE,
    ),
    Snippet(
        "python", "Python", "The same from Python, or its tensors without a folder.", (("python", _PYTHON),),
        on=_LANGUAGE | _IMAGE,
    ),
    Snippet(
        "diffusers", "diffusers", "All of the lineage as one LoRA on the pipeline. Needs nothing of this registry.",
        (("shell", _HUB), ("python", _DIFFUSERS)), "lora", "diffusers", frozenset({"pipeline"}),
    ),
    Snippet(
        "merged", "diffusers, merged", "The merged model, computed while it is downloaded, as if from the Hub.",
        (("shell", _HUB), ("python", _MERGED_IMAGE)), "merged", None, frozenset({"pipeline", "component"}),
    ),
    Snippet(
        "checkpoint", "Checkpoint", "The merged model in one file, for ComfyUI, A1111 and Forge.",
        (("shell", _CHECKPOINT),), "merged", None, frozenset({"checkpoint"}),
    ),
    Snippet(
        "comfyui", "ComfyUI", "All of the lineage as one file, by the names that ComfyUI knows.",
        (("shell", _FOR + "comfyui -o models/loras/"),), "lora", "comfyui", _IMAGE,
    ),
    Snippet(
        "forge", "Forge, A1111", "All of the lineage as one file, by the names that they know.",
        (("shell", _FOR + "forge -o models/Lora/"),), "lora", "forge", _IMAGE,
    ),
    Snippet(
        "vllm-omni", "vLLM-Omni", "All of the lineage as a folder that it loads as one LoRA.",
        (("shell", _FOR + "vllm-omni -o ./{name}"),), "lora", "vllm-omni", _IMAGE,
    ),
    Snippet(
        "curl", "curl", "The file that diffusers loads.", (("shell", _CURL_IMAGE),), "lora", "diffusers", _IMAGE
    ),
    Snippet(
        "peft", "PEFT", "All of the lineage as one adapter on the base model. Needs nothing of this registry.",
        (("shell", _HUB), ("python", _PEFT)), "lora", "peft",
    ),
    Snippet(
        "transformers", "transformers", "The merged model, computed while it is downloaded, as if from the Hub.",
        (("shell", _HUB), ("python", _TRANSFORMERS)), "merged",
    ),
    Snippet(
        "llama", "llama.cpp", "All of the lineage as one GGUF file, beside the base model as llama.cpp converts it.",
        (("shell", _FOR + "llama.cpp -o ./{name}"), ("shell", _LLAMA_CPP)), "lora", "llama.cpp",
    ),
    Snippet(
        "mlx", "MLX", "All of the lineage as the adapter that mlx-lm loads on the base model.",
        (("shell", _FOR + "mlx -o ./{name}\nregistry fetch {base} --as merged -o ./{base}"), ("shell", _MLX)),
        "lora", "mlx",
    ),
    Snippet(
        "vllm", "vLLM", "One copy of the base model serves every path by its name, with this registry's plugin.",
        (("shell", _VLLM), ("shell", _ASK_VLLM)), "lora", "vllm",
    ),
    Snippet("curl", "curl", "The weights and their configuration. The page Files names all.", (("shell", _CURL),)),
)  # fmt: skip
_OPEN: Final = {
    "import_os": "", "token": "", "header": "", "hub_token": "unset HF_TOKEN\nexport HF_HUB_DISABLE_IMPLICIT_TOKEN=1"
}  # fmt: skip
_BY_TOKEN: Final = {
    "import_os": "import os\n\n",
    "token": ', token=os.environ["REGISTRY_TOKEN"]',
    "header": '-H "Authorization: Bearer $REGISTRY_TOKEN" ',
    "hub_token": 'export HF_TOKEN="$REGISTRY_TOKEN" HF_HUB_DISABLE_IMPLICIT_TOKEN=0',
}


_PIPELINE: Final = "model_index.json"
_CONFIG: Final = "config.json"
_WEIGHTS: Final = (".safetensors", "config.json")  # also adapter_config.json
_TOKENIZERS: Final = frozenset({"tokenizer.json", "tokenizer_config.json"})
_CLASSES: Final[Mapping[str, str]] = {"LMHeadModel": "ForCausalLM", "ForConditionalGeneration": "ForSeq2SeqLM"}
"""How classes of transformers end, where the class that finds them by that is not called alike."""
_WHAT: Final[Mapping[ArtifactKind, str]] = {
    "lora": "All of the lineage as one adapter",
    "merged": "The merged model",
    "published": "The adapter as it was published",
}


def snippets(
    shown: Shown, ref: str, address: str, kind: ArtifactKind, files: Sequence[str], *, is_open: bool
) -> list[Snippet]:
    """How a revision is used with each tool.

    Args:
        shown: the revision.
        ref: the reference that the lines name, of this revision.
        address: of the service.
        kind: as what it is taken where the tool does not decide that.
        files: the names of the files of that.
        is_open: whether nobody needs a token; else it stands in a variable.
    """
    words = {**_words(shown, Reference.parse(ref), files), "address": address, "kind": kind, "what": _WHAT[kind]}
    found = []
    on = _on_base(shown.base)
    for row in (one for one in _ROWS if on in one.on):
        given = {**words, **(_OPEN if is_open else _BY_TOKEN), "view": KINDS[row.needs or kind].view}
        steps = tuple((language, text.format_map(given)) for language, text in row.steps)
        found.append(replace(row, about=row.about.format_map(given), steps=steps))
    return found


def _on_base(base: BaseSummary) -> OnBase:
    if not base.is_image_model:
        return "language"
    names = {file.path for file in base.files}
    if _PIPELINE in names:
        return "pipeline"
    return "component" if _CONFIG in names else "checkpoint"


def _words(shown: Shown, asked: Reference, files: Sequence[str]) -> Mapping[str, str]:
    number = None if shown.revision is None else shown.revision.number
    architecture = shown.base.architecture or ""
    auto = next((to for end, to in _CLASSES.items() if architecture.endswith(end)), None)
    composed = next((answer.rank for answer in shown.engines if answer.rank), None)
    rank = composed or sum(entry.rank or 0 for entry in shown.lineage)  # at most: its links may lie in one space
    name = MAIN if asked == Reference(asked.path) else asked.tag or f"r{number}"
    has_tokenizer = any(file.path in _TOKENIZERS for file in shown.base.files)
    tokenizer = f'\ntokenizer = AutoTokenizer.from_pretrained("{asked.path.repo_id}", revision="{name}")'
    return {
        "reference": str(asked),
        "name": asked.path.name,
        "base": asked.path.base,
        "base_id": Path(asked.path.base).repo_id,
        "repo_id": asked.path.repo_id,
        "revision": name,
        "import_tokenizer": ", AutoTokenizer" if has_tokenizer else "",
        "tokenizer": tokenizer if has_tokenizer else "",
        "image_class": architecture if architecture.endswith("Model") else "DiffusionPipeline",
        "auto": f"AutoModel{auto or ''.join(architecture.partition('For')[1:])}",
        "rank": str(startable(ENGINES["vllm"], rank) or ENGINES["vllm"].slots[-1]),
        "files": ",".join(quote(file) for file in files if file.endswith(_WEIGHTS)),
    }
