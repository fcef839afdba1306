"""Pipelines of transformers, and sentence-transformers, which sorts its inputs."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from registry.errors import UsageError
from registry.pool import AdapterPool
from tests.kit.bases import bert_base
from tests.kit.peers import load_model, wrap
from tests.kit.shelf import Shelf
from tests.kit.tokenizer_files import add_working_tokenizer
from tests.pool.per_call import nets
from tests.pool.per_call.kinds import away
from tests.pool.per_call.net_pools import NetPool

TEXTS = ["hello you", "where is my order", "send it back please to the room", "thanks", "cancel booking"]


@pytest.fixture(scope="module")
def bert(shelf: Shelf) -> tuple[Path, list[str]]:
    base = shelf.base("sentences", bert_base)
    add_working_tokenizer(base.folder)
    references = []
    for number, targets in enumerate((["query", "value"], ["dense"])):
        adapter = shelf.folder()
        wrap(adapter, load_model(base.folder), seed=number, target_modules=targets, b_scale=0.5, use_dora=number == 1)
        references.append(shelf.path("sentences", [adapter]))
    return base.folder, references


class Sorting(nets.Net):
    """Encodes as sentence-transformers does: the longest first, in batches."""

    def encode(self, texts: Sequence[Sequence[int]], batch: int = 2) -> torch.Tensor:
        order = sorted(range(len(texts)), key=lambda number: -len(texts[number]))
        found: dict[int, torch.Tensor] = {}
        for at in range(0, len(order), batch):
            mine = order[at : at + batch]
            longest = max(len(texts[number]) for number in mine)
            ids = torch.tensor([[*texts[number], *[0] * (longest - len(texts[number]))] for number in mine])
            found |= zip(mine, self(ids)[:, 0], strict=True)
        return torch.stack([found[number] for number in range(len(texts))])


def test_encode_gives_each_text_its_path(shelf: Shelf) -> None:
    net = NetPool(shelf, Sorting, ["emb", "lin"])
    texts = [[3, 1], [4, 1, 5, 9], [2], [6, 5, 3]]
    order = [None, net.reference, net.reference, None]
    with torch.no_grad():
        base = net.model.encode(texts)
        with net.pool.use(net.reference):
            path = net.model.encode(texts)
        found = net.pool.encode(texts, order, batch=3)
    for row, reference in enumerate(order):
        assert away(found[row], (base if reference is None else path)[row]) < 1e-5
    with pytest.raises(UsageError, match="`encode` sorts its inputs"), net.pool.use(order):
        net.model.encode(texts)
    with pytest.raises(UsageError, match="other processes"), net.pool.use(net.reference):
        net.model.encode(texts, device=["cpu", "cpu"])
    for wrong, refs in ((texts, order[:3]), ("abcd", order), (texts, "abcd")):
        with pytest.raises(UsageError, match="one for each"):
            net.pool.encode(wrong, refs)


def test_a_library_around_the_model_of_a_pool_is_seen(shelf: Shelf) -> None:
    """The pool's model is the one inside: nothing of it tells that the library sorts, but who calls it does."""
    names: dict[str, Any] = {"__name__": "sentence_transformers.base"}
    exec("def encode(model, ids):\n    return model(ids)\n", names)
    net = NetPool(shelf, nets.Net, ["emb", "lin"])
    ids = torch.tensor([[3, 1, 4], [1, 5, 9]])
    with net.pool.use([net.reference, None]):
        assert net.model(ids).shape[0] == 2
        with pytest.raises(UsageError, match="`encode` sorts its inputs"):
            names["encode"](net.model, ids)
    with net.pool.use(net.reference):
        assert names["encode"](net.model, ids).shape[0] == 2


@pytest.fixture
def sentences() -> Any:
    return pytest.importorskip("sentence_transformers", reason="sentence-transformers is not installed here")


@pytest.mark.slow
def test_sentence_transformers(shelf: Shelf, sentences: Any, bert: tuple[Path, list[str]]) -> None:
    folder, (first, second) = bert
    order = [first, None, second, None, first]
    model = sentences.SentenceTransformer(str(folder), device="cpu")
    with AdapterPool(model, shelf.registry) as pool:
        alone = {}
        for reference in (first, second, None):
            with pool.use(reference):
                alone[reference] = model.encode(TEXTS)
        with pool.merged(first):
            assert away(torch.tensor(alone[first]), torch.tensor(model.encode(TEXTS))) < 1e-5
        for options in ({}, {"convert_to_tensor": True}, {"batch_size": 2}):
            found = pool.encode(TEXTS, order, **options)
            for row, reference in enumerate(order):
                assert away(torch.as_tensor(found[row]), torch.tensor(alone[reference][row])) < 1e-5
        with pytest.raises(UsageError, match="`encode` sorts"), pool.use(order):
            model.encode(TEXTS)
        with pytest.raises(UsageError, match="other processes"), pool.use(first):
            model.encode(TEXTS, device=["cpu", "cpu"])
    inner = model[0].model  # the pool does not see who calls it
    with AdapterPool(inner, shelf.registry) as pool, pool.use(order), pytest.raises(UsageError, match="`encode` sorts"):
        model.encode(TEXTS)


@pytest.mark.slow
def test_cross_encoders(shelf: Shelf, sentences: Any, bert: tuple[Path, list[str]]) -> None:
    folder, (first, second) = bert
    model = sentences.CrossEncoder(str(folder), num_labels=1, device="cpu")
    pairs = [(one, TEXTS[0]) for one in TEXTS]
    order = [first, None, second, None, first]
    with AdapterPool(model, shelf.registry) as pool:
        alone = {}
        for reference in (first, second, None):
            with pool.use(reference):
                alone[reference] = model.predict(pairs)
        found = pool.encode(pairs, order)
        for row, reference in enumerate(order):
            assert abs(found[row] - alone[reference][row]) < 1e-5
        with pytest.raises(UsageError, match="`predict` sorts"), pool.use(order):
            model.predict(pairs)


@pytest.mark.slow
def test_pipelines(shelf: Shelf, bert: tuple[Path, list[str]]) -> None:
    import transformers

    folder, (first, second) = bert
    torch.manual_seed(1)
    model = transformers.AutoModelForSequenceClassification.from_pretrained(folder, num_labels=3, pad_token_id=3)
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    ask = transformers.pipeline("text-classification", model=model, tokenizer=tokenizer, device="cpu", top_k=None)
    order = [first, None, second, None, first]

    def scores(answers: Any) -> torch.Tensor:
        rows = [sorted(one, key=lambda answer: answer["label"]) for one in answers]
        return torch.tensor([[answer["score"] for answer in row] for row in rows])

    with AdapterPool(model, shelf.registry, base="sentences") as pool:
        alone = {}
        for reference in (first, second, None):
            with pool.use(reference):
                alone[reference] = scores(ask(TEXTS))
        with pool.use(order):
            mixed = scores(ask(TEXTS, batch_size=len(TEXTS)))
        for row, reference in enumerate(order):
            assert away(mixed[row], alone[reference][row]) < 1e-5
        with pytest.raises(UsageError, match="list of paths has 5 rows"), pool.use(order):
            ask(TEXTS)  # one by one
        assert len({tuple(one[0].tolist()) for one in alone.values()}) == 3
    copy.deepcopy(ask.model)
