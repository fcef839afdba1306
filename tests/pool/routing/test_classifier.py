"""Routing by a classifier that is published in the tree."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch

from registry.errors import NotFoundError, RetractedError, UsageError
from registry.pool import AdapterPool
from registry.pool.routing import Classifier
from tests.kit import llama_base
from tests.kit.peers import between_themselves, wrap
from tests.kit.shelf import Shelf

LABELS = ("code", "mail", "other")
BATCH = {"input_ids": torch.randint(1, 24, (12, 7), generator=torch.Generator().manual_seed(0))}


class Classified:
    """A base without a head, a classifier published over it, and what PEFT itself says of a batch."""

    def __init__(self, shelf: Shelf) -> None:
        self.shelf = shelf
        self.base = shelf.base("classified", llama_base, seed=9)
        self.folder = shelf.folder()
        wrapped = wrap(self.folder, self.load(), b_scale=1.0, target_modules=["q_proj"], task_type="SEQ_CLS")
        with torch.no_grad(), between_themselves():
            self.right = wrapped(**BATCH).logits.argmax(dim=1).tolist()
        self.reference = shelf.path("classified", [self.folder])
        self.path = self.reference.partition("@")[0]

    def load(self) -> Any:
        from transformers import AutoModelForSequenceClassification

        torch.manual_seed(3)
        options = {"num_labels": 3, "pad_token_id": 0}
        return AutoModelForSequenceClassification.from_pretrained(self.base.folder, **options).eval()


@pytest.fixture(scope="module")
def classified(shelf: Shelf) -> Classified:
    return Classified(shelf)


@pytest.fixture(params=["cpu", "cuda"])
def device(request: pytest.FixtureRequest) -> str:
    if request.param == "cuda" and not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    return str(request.param)


def test_rows_go_where_peft_would_send_them(classified: Classified, device: str) -> None:
    team = classified.shelf.registry
    team.annotate(classified.reference, annotations={"labels": '["code", "mail", "other"]'})
    team.tag(classified.reference, "prod")
    model = classified.load().to(device)
    batch = {name: value.to(device) for name, value in BATCH.items()}
    assert len(set(classified.right)) > 1
    with AdapterPool(model, team) as pool:

        def logits(rows: Any) -> Any:
            return model(**rows).logits

        children = Classifier(team, pool, f"{classified.path}@prod", logits)
        assert pool.route(batch, children) == [f"{classified.path}/{LABELS[one]}" for one in classified.right]
        references = {"code": "classified/code@prod", "mail": None, "other": "classified/other@2"}
        told = [list(references.values())[one] for one in classified.right]
        assert pool.route(batch, Classifier(team, pool, classified.reference, logits, references=references)) == told
        ids = {"input_ids": batch["input_ids"][:0]}
        assert pool.route(ids, children) == []
        team.retract(classified.reference, reason="a test")
        with pytest.raises(RetractedError):
            pool.route(batch, children)
        team.retract(classified.reference, undo=True)
        with pytest.raises(NotFoundError):
            pool.route(batch, Classifier(team, pool, "classified/nothing", logits))


def test_labels_are_those_of_the_revision_that_runs(classified: Classified) -> None:
    team = classified.shelf.registry
    team.annotate(classified.reference, annotations={"labels": '["code", "mail", "other"]'})
    router = Classifier(team, _Pool(), classified.reference, lambda _: torch.tensor([[0.0, 2.0, 1.0]]))
    assert router.route(["x"]) == [f"{classified.path}/mail"]
    team.annotate(classified.reference, annotations={"labels": '["mail", "code", "other"]'})
    assert router.route(["x"]) == [f"{classified.path}/code"]
    for text in ('{"0": "code"}', "code, mail", "[]", "[1, 2, 3]"):
        team.annotate(classified.reference, annotations={"labels": text})
        with pytest.raises(UsageError, match=r"no JSON list of texts"):
            router.route(["x"])
    team.annotate(classified.reference, unset=["labels"])
    with pytest.raises(UsageError, match=r"no annotation 'labels'"):
        router.route(["x"])


class _Pool:
    @contextmanager
    def use(self, ref: str) -> Iterator[str]:
        yield ref


def _router(classified: Classified, logits: Any, **options: Any) -> Classifier:
    labels = options.pop("labels", LABELS)
    answer = torch.tensor(logits)
    team = classified.shelf.registry
    return Classifier(team, _Pool(), classified.reference, lambda _: answer, labels=labels, **options)


def test_what_is_not_clear(classified: Classified) -> None:
    rows = [[0.0, 4.0, 0.0], [1.0, 1.0, 0.0], [0.1, 0.0, 0.0]]
    assert _router(classified, rows, minimum=0.5).route(["x"] * 3) == [f"{classified.path}/mail", None, None]
    assert _router(classified, rows).route(["x"] * 3) == [f"{classified.path}/mail", None, f"{classified.path}/code"]
    with pytest.raises(UsageError, match=r"row 1: the label 'code' or 'mail' has probability 0\.422"):
        _router(classified, rows, unclear="error").route(["x"] * 3)
    with pytest.raises(UsageError, match=r"'base' or 'error'"):
        _router(classified, rows, unclear="none")


@pytest.mark.parametrize(
    ("logits", "options", "said"),
    [
        ([[1.0, 0.0]], {}, r"shape \(1, 2\), and 1 rows with 3 labels"),
        ([[1.0, 0.0, 0.0]] * 2, {}, r"shape \(2, 3\)"),
        ([[1.0, float("nan"), 0.0]], {}, r"row 0 are not finite"),
        (
            [[1.0, 0.0, 0.0]],
            {"references": {"code": "classified/code"}},
            r"'mail' .* no path; known are 'code'",
        ),
    ],
)
def test_what_does_not_fit_is_refused(classified: Classified, logits: Any, options: Any, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        _router(classified, logits, **options).route(["x"])


def test_labels_of_a_configuration_are_put_in_order(classified: Classified) -> None:
    labels = {2: "other", 0: "code", 1: "mail"}
    assert _router(classified, [[0.0, 0.0, 1.0]], labels=labels).route(["x"]) == [f"{classified.path}/other"]
    with pytest.raises(UsageError, match=r"0 to 1 are expected"):
        _router(classified, [[0.0]], labels={0: "code", 2: "mail"})


def test_a_base_model_is_no_classifier(classified: Classified) -> None:
    with pytest.raises(UsageError, match=r"a base model"):
        Classifier(classified.shelf.registry, _Pool(), "classified", lambda _: torch.zeros(1, 1)).route(["x"])
