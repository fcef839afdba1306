"""What users do with the clients: run in a client's own environment, where nothing of the registry is installed.

Each line of the input is a JSON list of steps; it is answered with a line, a JSON list of what came of each.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
import warnings
from pathlib import Path
from typing import Any

IDS = [[5, 9, 4, 21, 30, 7, 12, 6]]


def _output(model: Any) -> list[Any]:
    import torch

    with torch.no_grad():
        out = model.eval()(input_ids=torch.tensor(IDS))
    values: list[Any] = (out.logits if hasattr(out, "logits") else out.last_hidden_state).double().tolist()
    return values


def _load(auto: str, name: str, **options: Any) -> Any:
    import transformers

    return getattr(transformers, auto).from_pretrained(name, **options)


def model(repo: str, auto: str = "AutoModelForCausalLM", **options: Any) -> list[Any]:
    """Load a model as the Hub's; its output for fixed ids."""
    return _output(_load(auto, repo, **options))


def chain(base: str, links: list[str], auto: str = "AutoModelForCausalLM") -> list[Any]:
    """PEFT's own way along a path, from folders: load a link on the merged ones before it, merge it, go on."""
    return _output(_chained(base, links, auto))


def _chained(base: str, links: list[str], auto: str = "AutoModelForCausalLM") -> Any:
    import peft

    found = _load(auto, base)
    for link in links:
        found = peft.PeftModel.from_pretrained(found, link).merge_and_unload()
    return found


def tokenizer(repo: str, text: str, **options: Any) -> dict[str, Any]:
    """Tokenize with the tokenizer of a repo, and by its chat template where it has one."""
    found = _load("AutoTokenizer", repo, **options)
    chat = [{"role": "user", "content": text}]
    templated = found.apply_chat_template(chat, tokenize=False) if found.chat_template else None
    return {"ids": found(text)["input_ids"], "chat": templated}


def pipeline(repo: str, text: str, links: list[str] | None = None, task: str | None = "text-generation") -> str:
    """Generate a text from a repo; with links, from a folder and what `chain` makes of it.

    Without a task, it is the one that the repo says.
    """
    import transformers

    given = {"model": repo} if links is None else {"model": _chained(repo, links), "tokenizer": repo}
    generate = transformers.pipeline(task, **given)
    answer: str = generate(text, max_new_tokens=6, do_sample=False)[0]["generated_text"]
    return answer


def adapted(base: str, repo: str, auto: str = "AutoModelForCausalLM", **options: Any) -> dict[str, Any]:
    """Put the adapter of a repo on a base model, by PEFT; what PEFT warned about belongs to the answer."""
    import peft

    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        found = peft.PeftModel.from_pretrained(_load(auto, base), repo, **options)
        output = _output(found)
    return {"output": output, "warned": [str(one.message) for one in told if "adapter keys" in str(one.message)]}


def auto_adapted(repo: str, **options: Any) -> list[Any]:
    """Let PEFT find the base model of an adapter."""
    import peft

    return _output(peft.AutoPeftModelForCausalLM.from_pretrained(repo, **options))


def file(repo: str, name: str, **options: Any) -> dict[str, Any]:
    """Download a file; the commit that it lies under, and its digest."""
    import huggingface_hub

    return _look(Path(huggingface_hub.hf_hub_download(repo, name, **options)), name)


def _look(path: Path, name: str) -> dict[str, Any]:
    commit = path.parents[name.count("/")].name
    return {"commit": commit, "sha256": hashlib.sha256(path.read_bytes()).hexdigest()}


def snapshot(repo: str, **options: Any) -> dict[str, Any]:
    """Download a repo; its commit, and the digests of its files."""
    import huggingface_hub

    folder = Path(huggingface_hub.snapshot_download(repo, **options))
    files = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    return {"commit": folder.name, "files": {name: _look(folder / name, name)["sha256"] for name in files}}


def asked(call: str, *given: str, **options: Any) -> Any:
    """Ask the Hub's API by a method of `HfApi` whose answer is a plain value."""
    import huggingface_hub

    return getattr(huggingface_hub.HfApi(), call)(*given, **options)


def info(repo: str, **options: Any) -> dict[str, Any]:
    """What the Hub's API tells of a repo."""
    import huggingface_hub

    api = huggingface_hub.HfApi()
    told, refs = api.model_info(repo, **options), api.list_repo_refs(repo)
    commits = api.list_repo_commits(repo)
    return {
        "id": told.id,
        "commit": told.sha,
        "files": sorted(one.rfilename for one in told.siblings or []),
        "branches": {one.name: one.target_commit for one in refs.branches},
        "tags": {one.name: one.target_commit for one in refs.tags},
        "commits": [one.commit_id for one in commits],
    }


def tensors(repo: str, **options: Any) -> dict[str, Any]:
    """The names and shapes in a repo's weights, read from their headers by ranges."""
    import huggingface_hub

    told = huggingface_hub.HfApi().get_safetensors_metadata(repo, **options)
    return {
        name: list(one.shape) for file in told.files_metadata.values() for name, one in sorted(file.tensors.items())
    }


def part(repo: str, name: str, start: int, end: int) -> str:
    """A few bytes of a file, by the file system of the client; as hex."""
    import huggingface_hub

    with huggingface_hub.HfFileSystem().open(f"{repo}/{name}", block_size=1024) as stream:
        stream.seek(start)
        data: bytes = stream.read(end - start)
    return data.hex()


def xet() -> bool:
    """Whether the client would speak to a xet store."""
    from huggingface_hub.utils import _runtime

    return bool(_runtime.is_xet_available())


def leave(host: str) -> None:
    """Try to reach another host; for the test of the guard."""
    import urllib.request

    urllib.request.urlopen(host, timeout=5).close()


def adapter(base: str, seed: int, revision: str | None = None, **options: Any) -> Any:
    """A model of a repo with a new adapter on it, as a trainer makes it; the revision as in `peft.get_peft_model`."""
    import peft
    import torch

    torch.manual_seed(seed)
    config = peft.LoraConfig(r=2, target_modules=["q_proj", "v_proj"], init_lora_weights=False)
    model = _load("AutoModelForCausalLM", base, **options)
    return peft.get_peft_model(model, config, **({} if revision is None else {"revision": revision}))


def _digests(folder: Path) -> dict[str, str]:
    names = ("adapter_config.json", "adapter_model.safetensors")
    return {name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in names}


def push_adapter(repo: str, tokenizer: str | None = None, **given: Any) -> dict[str, Any]:
    """Push a new adapter by PEFT, its tokenizer after it; the commit, and the digests of what was pushed."""
    import transformers

    model = adapter(**given)
    model.save_pretrained("pushed")
    commit = model.push_to_hub(repo).oid
    if tokenizer is not None:
        transformers.AutoTokenizer.from_pretrained(tokenizer).push_to_hub(repo)
    return {"commit": commit, "files": _digests(Path("pushed"))}


def train(repo: str, strategy: str = "every_save", last: bool = True, **given: Any) -> dict[str, str]:
    """Train by transformers' Trainer, which pushes; the digests of what it saved last."""
    import transformers

    ids = IDS[0]
    arguments = transformers.TrainingArguments(
        output_dir=f"out-{strategy}",
        max_steps=4,
        save_steps=2,
        per_device_train_batch_size=1,
        report_to=[],
        use_cpu=True,
        disable_tqdm=True,
        push_to_hub=True,
        hub_model_id=repo,
        hub_strategy=strategy,
    )
    data: Any = [{"input_ids": ids, "labels": ids}] * 8
    trainer = transformers.Trainer(adapter(**given), arguments, train_dataset=data)
    trainer.train()
    if last:
        trainer.push_to_hub()
    return _digests(Path(arguments.output_dir or ""))


LOADING = (model, chain, tokenizer, pipeline, adapted, auto_adapted)


def schedule(repo: str, folder: str) -> str:
    """Push a folder by the scheduler that does so every few minutes; the newest commit."""
    import huggingface_hub

    scheduler = huggingface_hub.CommitScheduler(repo_id=repo, folder_path=folder, every=60)
    scheduler.trigger().result()  # or the first push, which begins by itself, was faster, and there is nothing to do
    scheduler.stop()
    return str(huggingface_hub.HfApi().model_info(repo).sha)


def card(repo: str, text: str) -> str:
    """Push a model card; the commit's address."""
    import huggingface_hub

    return str(huggingface_hub.ModelCard(text).push_to_hub(repo))


PUSHING = (push_adapter, train, schedule, card)
ASKING = (file, snapshot, asked, info, tensors, part, xet, leave)
STEPS = {one.__name__: one for one in (*LOADING, *PUSHING, *ASKING)}


def outcome(do: str, **given: Any) -> dict[str, Any]:
    """Do a step; its value, or the error."""
    try:
        return {"value": STEPS[do](**given)}
    except Exception as error:  # noqa: BLE001 - whatever a client raises is what a test asks for
        names = [kind.__name__ for kind in type(error).__mro__]
        return {"value": None, "error": names, "text": "; ".join(_said(error))}


def _said(error: BaseException | None) -> list[str]:
    """What an error says, and those that it came from: transformers tells the Hub's own words only so."""
    return [] if error is None else [str(error), *_said(error.__cause__ or error.__context__)]


def main() -> None:
    """Until the input ends."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what the clients print is not among the answers
    for line in sys.stdin:
        print(json.dumps([outcome(**one) for one in json.loads(line)]), file=answers, flush=True)


if __name__ == "__main__":
    main()
