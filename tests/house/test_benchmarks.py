"""The benchmarks run, on tiny models, so that they don't rot; and the one table says what they found."""

from __future__ import annotations

import json
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

from benchmarks import __main__ as bench
from benchmarks import (
    images,
    images_made,
    merge_floor,
    merge_parts,
    pages,
    pool_switch,
    quote,
    report,
    request_steps,
    running,
    synthetic,
    ways,
)
from benchmarks.machine import machine
from benchmarks.parts import PARTS
from benchmarks.rows import Figure, Goal, Peer, Row
from registry import connect
from tests.images.real_configs import REAL


@pytest.fixture(autouse=True)
def results(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(running, "RESULTS", tmp_path / "results")
    return tmp_path / "results"


def quick(part: str, tmp_path: Path) -> dict[str, dict[str, Any]]:
    """The rows of a part by name; the first, where it has several of a name."""
    file = bench.main([part, "--quick", "--peer-python", "none", "--cache", str(tmp_path / "cache")])
    rows = json.loads(file.read_text())["parts"][part]["rows"]
    assert file.with_suffix(".md").read_text().count(f"\n| {part}: ") == len(rows)
    found: dict[str, dict[str, Any]] = {}
    for row in rows:
        found.setdefault(row["name"].strip(), row)
    return found


# ------------------------------------------------------------------ the table


def row(
    value: float, peer: float | None = None, goal: Goal | None = None, cpu: tuple[float, float] | None = None
) -> Row:
    beside = None if peer is None else Peer("peer", Figure(peer, cpu and cpu[1]))
    return Row("what", Figure(value, cpu and cpu[0]), "s", beside, goal)


@pytest.mark.parametrize(
    ("one", "met"),
    [
        (row(3.0, 2.0, Goal("at most", 1.5, of="ratio")), True),
        (row(3.1, 2.0, Goal("at most", 1.5, of="ratio")), False),
        (row(1.5, 2.0, Goal("at least", 0.8, of="ratio")), False),
        (row(3.0, 1.0, Goal("at most", 2.0, of="cpu"), (4.0, 2.0)), True),
        (row(3.0, 9.0, Goal("at most", 2.0, of="cpu"), (4.1, 2.0)), False),
        (row(3.0, 9.0, Goal("at most", 2.0, of="cpu")), None),  # CPU was not measured
        (row(3.0, None, Goal("at most", 1.0, of="ratio")), None),  # the peer was left out
        (row(0.0, None, Goal("at most", 0.0, of="figure")), True),
        (row(3.0, 2.0), None),
    ],
)
def test_a_goal_is_met_or_not_or_not_known(one: Row, met: bool | None) -> None:
    assert one.met is met


def test_figures_are_medians_with_their_spread() -> None:
    samples = [{"seconds": 3.0, "cpu": 1.0}, {"seconds": 1.0, "cpu": 5.0}, {"seconds": 2.0, "cpu": 2.0}]
    assert Figure.of(samples, scale=10) == Figure(20.0, 2.0, 10.0, 30.0, 3)
    assert Figure.of([{"rate": 7.0}], "rate") == Figure(7.0, None, 7.0, 7.0, 1)


def test_what_is_read_back_is_what_was_written(results: Path) -> None:
    rows = (row(1.0), row(2.0, 4.0, Goal("at most", 1, of="ratio")))
    part = report.Part("then", "abc", (0.5, 0.25), machine(), rows)
    report.write(results, "bench", report.Document({"hub": part, "merge": part}))
    assert report.read(results / "bench.json") == report.Document({"hub": part, "merge": part})
    assert report.read(results / "other.json") == report.Document({})
    told = (results / "bench.md").read_text()
    assert "| hub: what | 2 s |  | peer | 4 s |  | 0.5 |  | at most 1 x | yes |" in told
    assert f"- {machine()}: hub (then, commit abc, load 0.5 to 0.2), merge (then, commit abc, load 0.5 to 0.2)." in told


def test_a_page_quotes_the_table(tmp_path: Path) -> None:
    page, marks = (
        tmp_path / "page.md",
        ("<!-- bench: written by `python -m benchmarks.quote` -->", "<!-- end of bench -->"),
    )
    page.write_text(f"before\n{marks[0]}\nold\n{marks[1]}\nafter\n")
    document = report.Document({"hub": report.Part("then", "abc", (0.5, 0.25), machine(), (row(1.0),))})
    for _ in range(2):
        quote.quote(page, document)
        assert page.read_text() == f"before\n{marks[0]}\n\n{report.markdown(document)}\n{marks[1]}\nafter\n"
    page.write_text("nothing")
    with pytest.raises(SystemExit, match="lacks"):
        quote.quote(page, document)
    assert all(mark in quote.PAGE.read_text() for mark in marks)


def test_unknown_parts_and_missing_peers_are_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        bench.main(["merg", "--peer-python", "none"])
    assert "merg: the parts are" in capsys.readouterr().err
    with pytest.raises(SystemExit, match="`make bench` installs them"):
        bench.main(["--peer-python", str(tmp_path / "python")])


# ------------------------------------------------------------------ the parts


def test_every_part_is_a_module_with_rows() -> None:
    for part in PARTS:
        assert (Path(bench.__file__).parent / f"{part}.py").read_text().count("def rows(run: Conditions)") == 1


def test_truncation_is_measured_beside_its_peer(
    tmp_path: Path, results: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The smallest part: stdout, the file and JSON say the same, and other parts stay as they were."""
    before = report.Part("then", "abc", (0.5, 0.25), machine(), (row(1.0),))
    report.write(results, "quick", report.Document({"hub": before, "truncate": before}))
    found = quick("truncate", tmp_path)
    assert report.read(results / "quick.json").parts["hub"] == before
    error, distance = found["relative error"], found["the reported error's distance from the optimum"]
    assert error["figure"]["value"] <= error["peer"]["figure"]["value"] * (1 + 1e-6)
    assert distance["figure"]["value"] < distance["goal"]["limit"]
    lines = (results / "quick.md").read_text().splitlines()
    told = capsys.readouterr().out.splitlines()
    for name, one in found.items():
        (line,) = [line for line in lines if line.startswith("| truncate: ") and f" {name} |" in line]
        assert line in told
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        assert cells[1].startswith(report.number(one["figure"]["value"]))
        assert cells[4].startswith(report.number(one["peer"]["figure"]["value"])) if one["peer"] else cells[4] == ""


@pytest.mark.long
def test_merge_measures_every_side(tmp_path: Path) -> None:
    found = quick("merge", tmp_path)
    error = found["error of the sum of deltas"]
    assert 0 < error["figure"]["value"] <= error["peer"]["figure"]["value"]  # one rounding, of fp32 sums
    assert found["merge to disk with sync, 1.1 B in bf16, depth 4"]["figure"]["cpu"] > 0
    for part in merge_parts.OF_MERGE:  # nothing was renamed that it counts
        assert found[f"CPU of depth 4: {part}"]["figure"]["value"] > 0
    assert not list((tmp_path / "cache").glob("registry-*"))


@pytest.mark.slow
def test_the_floor_of_a_merge_writes_what_the_merge_writes(tmp_path: Path) -> None:
    with closing(connect(tmp_path / "registry")) as registry:
        base = synthetic.base_model(tmp_path, synthetic.TINY)
        registry.add_base("llama", base)
        adapters = [synthetic.adapter(tmp_path, synthetic.TINY, seed=seed) for seed in (1, 2, 3)]
        for depth, adapter in enumerate(adapters, start=1):
            registry.publish(adapter, "/".join(["llama", *("abc"[:depth])]))
        registry.fetch("llama/a/b/c", tmp_path / "merged", kind="merged")
    parts = running.run_child("floor", str(base), str(tmp_path / "floor"), *map(str, adapters))
    files = sorted((tmp_path / "floor").iterdir())
    assert len(files) == synthetic.TINY.shards
    for file in files:
        assert file.read_bytes() == (tmp_path / "merged" / file.name).read_bytes()
        assert file.read_bytes() != (base / file.name).read_bytes()
    assert all(parts[part] >= 0 for part in merge_floor.PARTS)


@pytest.mark.long
def test_startup_measures_every_command(tmp_path: Path) -> None:
    found = quick("startup", tmp_path)
    assert found["registry tree"]["figure"]["cpu"] > 0
    assert found["registry base add"]["figure"]["cpu"] > 0


@pytest.mark.long
def test_virtual_files_are_measured_beside_stored_ones(tmp_path: Path) -> None:
    found = quick("hub", tmp_path)
    assert found["what the store has grown by"]["figure"]["value"] == 0
    assert found["first byte of a range of 1 MiB"]["figure"]["value"] > 0
    for part in merge_parts.OF_STREAM:
        assert f"CPU of merging and sending it in one process: {part}" in found
    assert not list((tmp_path / "cache").glob("hub-*"))


@pytest.mark.long
def test_statistics_are_measured_beside_dense_matrices(tmp_path: Path) -> None:
    found = quick("stats", tmp_path)
    assert found["one link, one layer of 1.1 B"]["peer"]["figure"]["value"] > 0
    assert found["distance of the norms"]["figure"]["value"] <= 1e-5
    assert found["deltas of two siblings, one layer of 1.1 B"]["peer"]["figure"]["value"] > 0
    assert found["distance of cosine and overlap"]["figure"]["value"] <= 1e-4


@pytest.mark.slow
def test_merging_into_a_running_model_leaves_no_other_bits(tmp_path: Path) -> None:
    found = quick("pool", tmp_path)
    for links in ("1 link", "4 links"):
        assert found[f"merge {links}, bf16"]["figure"]["cpu"] is not None
        assert found[f"unmerge {links}, bf16"]["peer"]["figure"]["value"] > 0
    others = found["weights with other bits afterwards"]
    assert others["figure"]["value"] == 0 < others["peer"]["figure"]["value"]
    assert not list((tmp_path / "cache").glob("pool-*"))


@pytest.mark.long
def test_switches_are_measured_at_every_depth(tmp_path: Path) -> None:
    found = quick("pool_switch", tmp_path)
    for modules in ("12 modules (MiniLM)", "14 modules (a Llama of 22 layers)"):
        for links in ("1 link", "4 links", "15 links"):
            one = found[f"switch unmerged, {links}, {modules}"]
            assert one["figure"]["value"] > 0
            assert one["peer"]["name"] == pool_switch.SET
    assert found["with a forward of 8 tokens"]["peer"]["figure"]["value"] > 0


@pytest.mark.long
def test_flatness_is_measured(tmp_path: Path) -> None:
    found = quick("pool_flat", tmp_path)
    for what in ("switch unmerged", "forward of 8 tokens"):
        assert found[f"{what}, 4 resident"]["peer"]["name"] == "with 1 resident"
    assert found["first use of a path, 1 link of rank 4, 14 modules"]["figure"]["value"] > 0
    assert "resident memory grown from 10 to 100 switches" in found


@pytest.mark.long
def test_mixed_batches_equal_what_peft_computes_one_by_one(tmp_path: Path) -> None:
    found = quick("pool_mixed", tmp_path)
    for batch in ("8 x 32 tokens, fp32", "8 x 128 tokens, fp32", "8 x 32 tokens, fp32, DoRA"):
        assert found[f"8 paths in a batch, MiniLM, {batch}"]["peer"]["figure"]["value"] > 0
        apart = found[f"distance of the outputs from PEFT's, MiniLM, {batch}"]
        assert apart["figure"]["value"] <= apart["goal"]["limit"]
    assert found["8 paths in a batch, 1.1 B, 8 x 32 tokens, bf16"]["figure"]["value"] > 0


@pytest.mark.long
def test_siblings_are_measured_beside_single_ones(tmp_path: Path) -> None:
    found = quick("siblings", tmp_path)
    for rows, tokens in ((1, 32), (8, 128)):
        row = found[f"step of 5 adapters, {rows} x {tokens} tokens each, bf16"]
        assert row["figure"]["value"] > 0
        assert row["peer"]["figure"]["value"] > 0
    assert found["memory of training 5 adapters (PSS)"]["peer"]["figure"]["value"] > 0


@pytest.mark.long
def test_finding_a_parent_is_measured_beside_reading(tmp_path: Path) -> None:
    found = quick("identify", tmp_path)
    for way in ("at once", "step by step", "step by step, scales of no power of two"):
        assert found[f"a folder merged {way}, among 8 revisions"]["peer"]["figure"]["value"] > 0
    assert not list((tmp_path / "cache").glob("identify-*"))


@pytest.mark.long
def test_extracting_is_measured(tmp_path: Path) -> None:
    (found,) = quick("extract", tmp_path).values()
    assert found["figure"]["value"] > 0
    assert not list((tmp_path / "cache").glob("extract-*"))


@pytest.mark.long
def test_loras_of_images_are_merged_and_truncated_beside_their_peers(tmp_path: Path) -> None:
    """The peers' formulas give the same deltas: one rounding costs what it costs, and an SVD has one optimum."""
    run = running.Conditions(quick=True, cache=tmp_path / "cache")
    found = {(row.name.split(":")[0].strip(), row.peer.name): row for row in images.rows(run) if row.peer}
    for peer, most in ((images.DIFFUSERS, 1), (images.KOHYA, 1.001), (images.RESIZE, 1.001)):
        error, memory = found["error of the deltas", peer], found["peak memory", peer]
        assert error.ratio is not None
        assert 0 < error.ratio <= most
        assert error.figure.value < (25 if peer == images.RESIZE else 2)  # per cent
        assert memory.figure.value > 50
    assert not list((tmp_path / "cache").glob("images-*"))


@pytest.mark.slow
def test_the_unet_of_the_image_benchmark_has_the_real_shapes_and_every_target_a_name_of_kohyas(tmp_path: Path) -> None:
    full = images_made.Unet.of("full")
    assert (full.parameters, len(full.shapes)) == REAL["sdxl"][1:]
    assert len(full.kohya_names()) == len(full.targets()) == 722
    tiny = images_made.Unet.of("tiny")
    file = images_made.lora_of(tmp_path, tiny, seed=0, rank=2, below=images_made.BLOCK)
    assert len(load_file(file)) == 3 * 10
    weights = load_file(images_made.folder_of(tmp_path, tiny) / images_made.WEIGHTS)
    assert {name: tuple(weight.shape) for name, weight in weights.items()} == tiny.shapes


@pytest.mark.long
def test_reads_are_measured_beside_a_bare_answer(tmp_path: Path) -> None:
    found = quick("reads", tmp_path)
    for database in ("SQLite", "PostgreSQL"):
        one = found[f"resolve over HTTP, 20 adapters, {database}"]
        for figure in (one["figure"], one["peer"]["figure"]):  # so few requests can take less than the clock shows
            assert figure["cpu"] is not None
        alone = found[f"token and resolve in a loop, in process, {database}"]
        assert alone["figure"]["value"] > 0
        assert alone["peer"]["name"] == "their 2 statements by the driver"
    steps = [name for name, row in found.items() if row["peer"] and row["peer"]["name"] == "the step before"]
    assert steps == [f"with {what}" for what in list(request_steps.NAMES.values())[1:]]
    assert found["resolve with 2 workers, 8 clients on the same machine"]["figure"]["value"] > 0


@pytest.mark.long
def test_a_push_is_measured_beside_a_publish(tmp_path: Path) -> None:
    first, inline, memory = quick("push", tmp_path).values()
    assert first["peer"]["figure"]["value"] > 0
    assert inline["figure"]["value"] > 0
    assert memory["figure"]["value"] >= 0


@pytest.mark.long
def test_each_way_of_sending_weights_is_measured_and_all_of_them_arrive(tmp_path: Path) -> None:
    found = quick("ways", tmp_path)
    sent = {name: row["figure"]["value"] for name, row in found.items() if "bytes" in name}
    by_lfs, within, by_xet = (sent[f"bytes that are sent {way}"] for way in (ways.LFS, ways.COMMIT, ways.XET))
    assert by_lfs < within < 1.5 * by_lfs
    assert 0.5 * by_lfs < by_xet < 1.1 * by_lfs


@pytest.mark.long
def test_every_page_is_measured_on_the_server_and_in_a_browser(tmp_path: Path) -> None:
    found = quick("pages", tmp_path)
    for name in pages.PAGES:
        assert found[f"{name}, on the server"]["figure"]["value"] > 0
        assert found[f"HTML without drawings: {name}"]["figure"]["value"] < 100
        assert found[f"{name}, first paint"]["figure"]["value"] > 0


@pytest.mark.long
def test_the_service_is_measured(tmp_path: Path) -> None:
    found = quick("service_catalogue", tmp_path)
    for database in ("SQLite", "PostgreSQL"):
        assert found[f"publish in process, 8 writers, {database}, 100 revisions"]["figure"]["value"] > 0
        assert found[f"lookup in process, 1 reader, {database}, 100 revisions"]["figure"]["value"] > 0
    found = quick("service_http", tmp_path)
    assert found["publish, 8 writers over HTTP, PostgreSQL and S3"]["figure"]["value"] > 0
    found = quick("service_transfer", tmp_path)
    assert found["blob bytes between clients and the service"]["figure"]["value"] == 0
    assert not list((tmp_path / "cache").glob("service-*"))


@pytest.mark.long
def test_following_is_measured_at_rest_and_until_a_moved_tag_is_in_place(tmp_path: Path) -> None:
    found = quick("follow", tmp_path)
    assert found["CPU of a round of 10 names at rest, the follower"]["figure"]["value"] > 0
    assert found["from a moved tag to the folder's link, a round every 3 s"]["figure"]["runs"] == 2
