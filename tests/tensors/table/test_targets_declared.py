"""What a base's registry.json may say of its modules, and how a wrong one is refused."""

from __future__ import annotations

import json
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from registry.errors import ConflictError, InvalidBaseError
from registry.tensors.table.built import table_from_facts
from registry.tensors.table.declaration import declare, table_from_names
from registry.tensors.table.parameters import Piece
from registry.tensors.table.targets import Target, TargetKind, TargetTable

TENSORS: dict[str, tuple[str, tuple[int, ...]]] = {
    "net.c1.weight": ("F32", (8, 3, 3, 3)),
    "net.c1.bias": ("F32", (8,)),
    "net.fc.weight": ("F32", (6, 8)),
    "emb.weight": ("F32", (9, 6)),
    "moe.up": ("F32", (4, 6, 10)),
    "moe.down": ("F32", (4, 10, 6)),
    "norm.weight": ("F32", (6,)),
}
DECLARED: dict[str, Any] = {
    "modules": {
        "net.c1": {"kind": "conv", "groups": 2, "dilation": [2, 1], "padding_mode": "reflect"},
        "net.fc": {"kind": "linear", "transposed": True},
        "emb": {"kind": "embedding"},
        "moe": {"kind": "experts", "parameters": ["up", "down"], "transposed": True},
    }
}


def declared(modules: Any) -> TargetTable:
    return declare(table_from_names(TENSORS), {"modules": modules})


def test_what_the_tensors_can_not_tell() -> None:
    table = declare(table_from_names(TENSORS), DECLARED)
    assert table.targets["net.c1"] == Target(
        "net.c1", TargetKind.CONV, "net.c1.weight", (8, 3, 3, 3), declared=True,
        geometry={"kernel": [3, 3], "groups": 2, "dilation": [2, 1], "padding_mode": "reflect"},
    )  # fmt: skip
    linear = table.targets["net.fc"]
    assert (linear.kind, linear.transposed, linear.out_features) == (TargetKind.CONV1D, True, 8)
    assert table.targets["emb"].kind is TargetKind.EMBEDDING
    assert list(table.targets) == sorted(table.targets)
    assert not table.knows_kinds
    assert table.knows_kind(linear)
    assert TargetTable.from_document(json.loads(json.dumps(table.to_document()))) == table


def test_experts_of_a_net_of_ones_own() -> None:
    up, down = declare(table_from_names(TENSORS), DECLARED).targets["moe"].fused
    assert (up.name, up.experts, up.out_features, up.in_features, up.transposed) == ("up", 4, 10, 6, True)
    assert (down.name, down.out_features) == ("down", 6)
    assert up.pieces[3] == Piece("moe.up", 3, (0, 10), 3, True)


def test_a_convolution_has_the_defaults_of_torch() -> None:
    geometry = declared({"net.c1": {"kind": "conv"}}).targets["net.c1"].geometry
    assert geometry == {"kernel": [3, 3], "groups": 1, "dilation": [1, 1], "padding_mode": "zeros"}


def test_the_digest_follows_the_declaration() -> None:
    plain = table_from_names(TENSORS)
    assert declare(plain, {}) == plain
    digests = {plain.digest, declare(plain, DECLARED).digest, declared({"emb": {"kind": "linear"}}).digest}
    assert len(digests) == 3


def test_a_declared_linear_is_no_embedding_whatever_an_adapter_says() -> None:
    assert declared({"net.fc": {"kind": "linear"}}).targets["emb"].as_embedding().kind is TargetKind.EMBEDDING
    with pytest.raises(ValueError, match="emb"):
        declared({"emb": {"kind": "linear"}}).targets["emb"].as_embedding()


@pytest.mark.parametrize(
    ("document", "sentence"),
    [
        ([], "it is not a JSON object"),
        ({"module": {}}, "it has the key 'module', and only modules may be there"),
        ({"modules": []}, "modules is not an object"),
        ({"modules": {"emb": "embedding"}}, "'emb' is not an object with a kind"),
        ({"modules": {"emb": {}}}, "the kind of 'emb' is None"),
        ({"modules": {"emb": {"kind": ["conv"]}}}, "the kind of 'emb' is ['conv']"),
        ({"modules": {"emb": {"kind": "attention"}}}, "one of linear, embedding, conv, experts is expected"),
        ({"modules": {"emb": {"kind": "embedding", "groups": 2}}}, "'emb' has the key 'groups', and only kind may be"),
        ({"modules": {"net.c2": {"kind": "conv"}}}, "no module 'net.c2' with a weight"),
        ({"modules": {"norm": {"kind": "linear"}}}, "no module 'norm' with a weight of two or more dimensions"),
        ({"modules": {"net.c1": {"kind": "linear"}}}, "declared as linear, which has 2 dimensions, and its weight is"),
        ({"modules": {"net.fc": {"kind": "conv"}}}, "declared as conv, which has 3 to 5 dimensions"),
        (
            {"modules": {"net.fc": {"kind": "linear", "transposed": 1}}},
            "transposed of 'net.fc' is 1, and true or false",
        ),
        ({"modules": {"net.c1": {"kind": "conv", "groups": 3}}}, "a divisor of its 8 output features"),
        ({"modules": {"net.c1": {"kind": "conv", "groups": 0}}}, "groups of net.c1 is 0"),
        ({"modules": {"net.c1": {"kind": "conv", "groups": True}}}, "groups of net.c1 is True"),
        ({"modules": {"net.c1": {"kind": "conv", "dilation": 2}}}, "dilation of net.c1 is 2, and a list of 2"),
        ({"modules": {"net.c1": {"kind": "conv", "dilation": [2]}}}, "a list of 2 positive numbers"),
        ({"modules": {"net.c1": {"kind": "conv", "padding_mode": "same"}}}, "one of zeros, reflect, replicate"),
        ({"modules": {"net.c1": {"kind": "conv", "padding_mode": None}}}, "padding_mode of net.c1 is None"),
        ({"modules": {"moe": {"kind": "experts"}}}, "parameters of 'moe' is None"),
        ({"modules": {"moe": {"kind": "experts", "parameters": ["up", "up"]}}}, "names one twice"),
        (
            {"modules": {"moe": {"kind": "experts", "parameters": ["gate"]}}},
            "no tensor 'moe.gate' with three dimensions",
        ),
    ],
)
def test_a_declaration_that_can_not_be_used(document: Any, sentence: str) -> None:
    with pytest.raises(InvalidBaseError) as caught:
        declare(table_from_names(TENSORS), document)
    assert caught.value.code == "bad_declaration"
    assert sentence in str(caught.value)
    assert str(caught.value).startswith("registry.json of the base can't be used: ")


def known() -> TargetTable:
    geometry = {"kernel": [3, 3], "groups": 2, "dilation": [1, 1], "padding_mode": "zeros"}
    modules: list[Any] = [
        ["fc", "conv1d", {}, [["weight", [6, 8]]]],
        ["conv", "conv", geometry, [["weight", [8, 3, 3, 3]]]],
        ["own", "unknown", {}, [["weight", [6, 8]]]],
    ]
    names = [f"{entry[0]}.weight" for entry in modules]
    facts = {
        "source": "transformers 5.0.0", "architecture": "Net", "named": True, "model_type": "net", "prefix": "",
        "output_module": None, "modules": modules, "direct": {name: name for name in names}, "conversions": [],
        "ties": [],
        "flag_ties": [],
        "renamed": [],
    }  # fmt: skip
    return table_from_facts(facts, {f"{entry[0]}.weight": ("F32", tuple(entry[3][0][1])) for entry in modules})


def test_what_transformers_knows_may_be_said_again() -> None:
    modules = {"fc": {"kind": "linear", "transposed": True}, "conv": {"kind": "conv", "groups": 2}}
    assert declare(known(), {"modules": modules}) == known()


@pytest.mark.parametrize(
    ("entry", "sentence"),
    [
        ({"fc": {"kind": "linear"}}, "fc of Net is a transposed linear in transformers, and it is declared as linear"),
        ({"fc": {"kind": "embedding"}}, "is a transposed linear in transformers, and it is declared as embedding"),
        ({"conv": {"kind": "conv"}}, "groups 2, dilation [1, 1], padding_mode zeros in transformers, and it is"),
        ({"own": {"kind": "linear"}}, "own of Net is a module with arithmetic of its own in transformers"),
    ],
)
def test_what_transformers_knows_can_not_be_declared_away(entry: Any, sentence: str) -> None:
    with pytest.raises(InvalidBaseError) as caught:
        declare(known(), {"modules": entry})
    assert caught.value.code == "bad_declaration"
    assert sentence in str(caught.value)


def test_the_file_in_a_base_folder(tmp_path: Path) -> None:
    from registry import connect
    from tests.kit.bases import plain_base

    folder = tmp_path / "base"
    plain_base(folder)
    with closing(connect(tmp_path / "registry")) as registry:
        plain = registry.add_base("plain", folder).base
        (folder / "registry.json").write_text('{"modules": {"head": {"kind": "linear", "transposed": true}}}')
        with pytest.raises(ConflictError, match=r"no registry\.json") as caught:
            registry.add_base("plain", folder)
        assert caught.value.code == "name_taken"
        told = registry.add_base("declared", folder).base
        assert not registry.add_base("declared", folder).created
        assert told.digest == plain.digest
        assert told.table_digest != plain.table_digest
        assert "registry.json" in {file.path for file in told.files}
        for text in ("{", "[]", '{"modules": {}, "modules": {}}', '{"modules": {"x": {"kind": "conv"}}}'):
            (folder / "registry.json").write_text(text)
            with pytest.raises(InvalidBaseError) as refused:
                registry.add_base("other", folder)
            assert refused.value.code == "bad_declaration"
