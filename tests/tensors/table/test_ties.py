"""What a table tells of ties: what the flag ties beside weights, and what the files keep apart."""

from __future__ import annotations

from dataclasses import replace

import pytest

from registry.tensors.table.parameters import FileParameter
from registry.tensors.table.targets import Target, TargetKind, TargetTable
from registry.tensors.table.ties import apart_in_files, parted_by_files, unsaid, with_flag_ties

EMBEDDING, HEAD = "body.embed", "head.decoder"


def _table(*, bias: str | None = None, others: tuple[Target, ...] = (), head: str | None = None) -> TargetTable:
    targets = [
        Target(EMBEDDING, TargetKind.EMBEDDING, f"{EMBEDDING}.weight", (40, 6), tie=HEAD),
        Target(HEAD, TargetKind.LINEAR, head, (40, 6), tie=EMBEDDING),
        *others,
    ]
    shapes = {f"{EMBEDDING}.weight": (40, 6)} | ({bias: (40,)} if bias else {})
    return TargetTable(
        {target.module: target for target in targets},
        source="transformers 5",
        parameters={name: FileParameter(name, shape) for name, shape in shapes.items()},
        output_module=HEAD,
    )


WEIGHTS = [f"{EMBEDDING}.weight", f"{HEAD}.weight"]


def test_a_tie_of_weights_alone_is_told_by_the_targets() -> None:
    table = _table()
    assert with_flag_ties(table, [WEIGHTS], (), ()) == table
    assert "ties" not in table.to_document()


def test_a_bias_is_told() -> None:
    table = with_flag_ties(_table(bias="head.bias"), [WEIGHTS, ["head.bias", f"{HEAD}.bias"]], (), ())
    assert table.ties == {f"{HEAD}.bias": "head.bias", f"{HEAD}.weight": f"{EMBEDDING}.weight"}
    assert TargetTable.from_document(table.to_document()) == table
    assert table.find_parameter(f"{HEAD}.bias") == ("head.bias", table.parameters["head.bias"])
    assert table.parameters_of(HEAD) == {"bias": table.parameters["head.bias"]}
    assert table.holder(f"{HEAD}.weight") == f"{HEAD}.weight"  # a module's weight has changes of its own


def test_a_bias_that_both_hold_needs_no_word() -> None:
    table = _table(bias="head.bias")
    table = replace(table, parameters={**table.parameters, f"{HEAD}.bias": FileParameter(f"{HEAD}.bias", (40,))})
    assert with_flag_ties(table, [WEIGHTS, ["head.bias", f"{HEAD}.bias"]], (), ()).ties is None


def test_what_has_no_tensor_of_its_name_can_t_be_written() -> None:
    table = _table(bias="head.bias")
    groups = [WEIGHTS, ["head.bias", f"{HEAD}.bias"]]
    assert with_flag_ties(table, groups, (), {f"{HEAD}.bias"}).ties == {
        f"{HEAD}.bias": None, f"{HEAD}.weight": f"{EMBEDDING}.weight",
    }  # fmt: skip
    assert with_flag_ties(_table(), [WEIGHTS, ["made", "other"]], {"made"}, ()).ties == {
        "other": None, f"{HEAD}.weight": f"{EMBEDDING}.weight",
    }  # fmt: skip
    assert with_flag_ties(_table(), [WEIGHTS, ["neither", "nor"]], (), ()).ties is None


SECOND = (
    Target("body.in", TargetKind.LINEAR, "body.in.weight", (6, 6), tie="body.out"),
    Target("body.out", TargetKind.LINEAR, None, (6, 6), tie="body.in"),
)


def test_a_second_pair_of_weights_is_told() -> None:
    table = _table(others=SECOND)
    table = replace(table, parameters={**table.parameters, "body.in.weight": FileParameter("body.in.weight", (6, 6))})
    assert unsaid(table) == "body.out.weight"
    found = with_flag_ties(table, [WEIGHTS, ["body.in.weight", "body.out.weight"]], (), ())
    assert found.ties == {"body.out.weight": "body.in.weight", f"{HEAD}.weight": f"{EMBEDDING}.weight"}
    assert unsaid(found) is None


def test_where_no_head_is_tied_nothing_can_part() -> None:
    table = replace(_table(others=SECOND), output_module=None)
    table = replace(table, parameters={**table.parameters, "body.in.weight": FileParameter("body.in.weight", (6, 6))})
    assert with_flag_ties(table, [WEIGHTS, ["body.in.weight", "body.out.weight"]], (), ()).ties is None
    assert unsaid(table) is None


def test_a_table_that_only_looks_old_says_that_it_is_not() -> None:
    old = _table(bias="head.bias")
    assert unsaid(old) == "head.bias"
    new = with_flag_ties(old, [WEIGHTS], (), ())
    assert new.ties == {}
    assert unsaid(new) is None
    assert new.to_document()["ties"] == {}


@pytest.mark.parametrize("head", [None, "body.in"])
def test_a_bias_of_another_module_or_of_the_head_is_no_sign(head: str | None) -> None:
    name = f"{head or HEAD}.bias"
    assert unsaid(_table(bias=name, others=(replace(SECOND[0], tie=None),) if head else ())) is None


def test_the_files_decide() -> None:
    table = _table(head=f"{HEAD}.weight")
    alike, apart = dict.fromkeys(WEIGHTS, "one"), dict(zip(WEIGHTS, ("one", "two"), strict=True))
    assert parted_by_files(table, alike) is table
    assert apart_in_files(table, apart) in ({HEAD: EMBEDDING}, {EMBEDDING: HEAD})
    found = parted_by_files(table, apart)
    assert [target.tie for target in found.targets.values()] == [None, None]
    assert found.tie_group(HEAD) == (HEAD,)
    assert TargetTable.from_document(found.to_document()) == found


def test_of_four_the_one_that_differs_goes() -> None:
    """T5 v1.1: the embedding of both sides stays one."""
    copies = (
        Target("left", TargetKind.EMBEDDING, None, (40, 6), tie=EMBEDDING),
        Target("right", TargetKind.EMBEDDING, "right.weight", (40, 6), tie=EMBEDDING),
    )
    digests = {f"{EMBEDDING}.weight": "one", "right.weight": "one", f"{HEAD}.weight": "two"}
    found = parted_by_files(_table(others=copies, head=f"{HEAD}.weight"), digests)
    assert found.apart == {HEAD: EMBEDDING}
    assert found.tie_group("left") == (EMBEDDING, "right", "left")
    assert found.targets[EMBEDDING].tie == "left"
    assert found.tie_group(HEAD) == (HEAD,)
