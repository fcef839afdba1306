"""Siblings under `transformers.Trainer` learn what PEFT's model learns under it alone, on its own rows."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from transformers import Trainer, TrainingArguments

from registry.errors import UsageError
from registry.pool.parallel_training import Siblings
from tests.kit.peers import load_model
from tests.kit.shelf import Shelf
from tests.pool.parallel_training.nursery import Batch, Nursery, classifier, distance, mine, peft_names, values_of

WEIGHTS = 1e-5
LENGTH = 12


@pytest.fixture(scope="module")
def nurseries(shelf: Shelf) -> dict[str, Nursery]:
    return {"llama": Nursery(shelf, "llama"), "gpt2": Nursery(shelf, "gpt2", undropped)}


def undropped(folder: Path) -> Any:
    """GPT-2 without dropout of its own."""
    model = load_model(folder)
    for one in model.modules():
        if isinstance(one, torch.nn.Dropout):
            one.p = 0.0
    return model


def answers(lengths: Sequence[int], seed: int) -> Batch:
    """Rows whose answers have these lengths; 0: none. With one of all but one position, the first is a label too."""
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(3, 30, (len(lengths), LENGTH), generator=generator)
    at = torch.arange(LENGTH)
    labels = ids.masked_fill(at < LENGTH - torch.tensor(lengths)[:, None], -100)
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": labels}


LENGTHS = [(1, 1, 12), (9, 2, 12), (0, 11, 3), (12, 1, 4), (2, 8, 8), (12, 0, 2), (5, 5, 1)]
"""Of the answers of each batch; the first two rows are of the first sibling, but for the last batch but one."""


def arguments(out: Path, accumulation: int, **options: Any) -> TrainingArguments:
    return TrainingArguments(
        output_dir=str(out),
        per_device_train_batch_size=1,  # an example is a whole batch here
        gradient_accumulation_steps=accumulation,
        num_train_epochs=2,
        learning_rate=0.2,
        lr_scheduler_type="linear",
        max_grad_norm=options.pop("max_grad_norm", 0.5),
        optim=options.pop("optim", "sgd"),
        logging_steps=1,
        remove_unused_columns=False,
        save_strategy="no",
        report_to=[],
        use_cpu=True,
        dataloader_pin_memory=False,
        disable_tqdm=True,
        train_sampling_strategy="sequential",
        **options,
    )


def batches(paths: Sequence[str]) -> list[tuple[Batch, list[str]]]:
    first, second = paths
    found = [(answers(lengths, seed), [first, first, second]) for seed, lengths in enumerate(LENGTHS)]
    found[-2] = found[-2][0], [second, second, second]  # the first sits out
    return found


def only(examples: list[Any]) -> Any:
    """Collates one example: a batch."""
    (example,) = examples
    return dict(example)


def written(siblings: Siblings, batch: Batch, rows: list[str]) -> Any:
    """A batch that says whose its rows are."""
    return siblings.collator(lambda _: dict(batch))([{"sibling": path} for path in rows])


def train_siblings(siblings: Siblings, model: Any, args: TrainingArguments, *, callbacks: Sequence[Any] = ()) -> Any:
    examples = []
    for batch, rows in batches(siblings.paths):
        examples.append(written(siblings, batch, rows))
    trainer = Trainer(
        model=model,
        args=args,
        train_dataset=examples,
        data_collator=only,
        compute_loss_func=siblings.loss,
        callbacks=[siblings.callback(), *callbacks],
    )
    trainer.train()
    return trainer


def train_alone(model: Any, path: str, paths: Sequence[str], args: TrainingArguments) -> Any:
    """PEFT's model under the Trainer, on the rows of one sibling; a batch without any has one row without labels."""
    examples = []
    for batch, rows in batches(paths):
        own = mine(batch, rows, path)
        if not len(own["labels"]):
            own = {name: one[:1] for name, one in batch.items()}
            own["labels"] = torch.full_like(own["labels"], -100)
        examples.append(own)
    trainer = Trainer(model=model, args=args, train_dataset=examples, data_collator=only)
    trainer.train()
    return trainer


@pytest.mark.parametrize(
    ("kind", "accumulation"),
    [
        ("llama", 4),
        ("gpt2", 2),
        *(pytest.param(*one, marks=pytest.mark.slow) for one in (("llama", 1), ("llama", 2), ("gpt2", 3))),
    ],
)
def test_unequal_answers_weigh_as_with_peft_alone(
    nurseries: dict[str, Nursery], kind: str, accumulation: int, tmp_path: Path
) -> None:
    """Seven batches an epoch: the last accumulation of each is incomplete with 2, 3 and 4."""
    nursery = nurseries[kind]
    targets = {"llama": ["q_proj", "down_proj"], "gpt2": ["c_attn", "c_fc"]}[kind]
    config = peft.LoraConfig(r=2, lora_alpha=4, target_modules=targets, init_lora_weights=False)
    given = {nursery.path("s"): config, nursery.path("s"): config}
    with (
        nursery.pool() as pool,
        pool.siblings(
            given,
            nursery.parent,
            optimizer=lambda parameters: torch.optim.SGD(parameters, lr=0.2),
            max_grad_norm=0.5,
            accumulate=accumulation,
        ) as siblings,
    ):
        begun = {path: values_of(siblings, path) for path in given}
        trainer = train_siblings(siblings, pool._model, arguments(tmp_path / "siblings", accumulation))
        logs = [one for one in trainer.state.log_history if "loss" in one]
        for path in given:
            alone = nursery.alone(config, begun[path])
            theirs = train_alone(alone, path, list(given), arguments(tmp_path / "alone", accumulation))
            trained = peft_names(alone)
            for name, one in siblings.named_parameters(path).items():
                assert distance(one, trained[name]) <= WEIGHTS, name
            if kind == "llama":  # of GPT-2 the Trainer counts the first position of each row, which has no loss
                shown = [one.get(f"loss/{path}") for one in logs]
                wanted = [one["loss"] for one in theirs.state.log_history if "loss" in one]
                assert len(shown) == len(wanted) > 1
                for one, other in zip(shown, wanted, strict=True):
                    assert one is None or one == pytest.approx(other, rel=1e-4)
        assert all(0 < one["loss"] < 10 for one in logs)  # a mean over labels, not a sum over batches


PLAIN: dict[str, Any] = {"r": 2, "lora_alpha": 4, "target_modules": ["q_proj"], "init_lora_weights": False}


def gradients(siblings: Siblings, path: str) -> torch.Tensor:
    return torch.cat([one.grad.flatten() for one in siblings.named_parameters(path).values() if one.grad is not None])


class Still(torch.optim.SGD):
    """Changes nothing, and keeps what it was given."""

    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        self.given = [one.grad.clone() for group in self.param_groups for one in group["params"]]


def run(siblings: Siblings, model: Any, batch: Batch, rows: list[str]) -> None:
    with siblings.rows(rows):
        out = model(batch["input_ids"], attention_mask=batch["attention_mask"])
    losses = siblings.losses(out, batch["labels"])
    if losses:
        torch.autograd.backward(list(losses.values()))


@pytest.mark.parametrize("complete", [False, True])
def test_a_loop_of_its_own_weighs_labels_too(nurseries: dict[str, Nursery], complete: bool) -> None:
    """Batches with 0, 1, 12 and 3 labels, the first of which no loss is taken of, are one batch of 16."""
    nursery = nurseries["llama"]
    path = nursery.path("own")
    parts = [answers([count], seed=count) for count in (0, 1, 11, 3)]
    whole = {name: torch.cat([one[name] for one in parts]) for name in parts[0]}
    options: dict[str, Any] = {"optimizer": lambda given: Still(given, lr=1.0), "max_grad_norm": None}
    found = []
    for batches_of, accumulate in (([whole], 1), (parts, 9 if complete else 4)):
        with (
            nursery.pool() as pool,
            pool.siblings({path: PLAIN}, nursery.parent, accumulate=accumulate, **options) as siblings,
        ):
            norms: list[dict[str, float]] = []
            for number, batch in enumerate(batches_of):
                run(siblings, pool._model, batch, [path] * len(batch["labels"]))
                norms.append(siblings.update(complete=complete and number == len(batches_of) - 1))
            assert [path in one for one in norms] == [False] * (len(norms) - 1) + [True]
            assert not siblings.set_aside
            found.append(torch.cat([one.flatten() for one in siblings.optimizers[path].given]))  # type: ignore[attr-defined]
    assert distance(found[1], found[0]) < 1e-6


def test_batches_weigh_the_same_where_labels_are_not_counted(nurseries: dict[str, Nursery]) -> None:
    nursery = nurseries["llama"]
    path = nursery.path("own")

    def loss(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        return logits[labels != -100].square().mean()

    with (
        nursery.pool() as pool,
        pool.siblings(
            {path: PLAIN}, nursery.parent, accumulate=2, loss=loss, max_grad_norm=None,
            optimizer=lambda given: Still(given, lr=1.0),
        ) as siblings,
    ):  # fmt: skip
        alone = []
        for count in (1, 11):
            run(siblings, pool._model, answers([count], seed=count), [path])
            alone.append(gradients(siblings, path))
            siblings.forget()
        for count in (1, 11):
            run(siblings, pool._model, answers([count], seed=count), [path])
            siblings.update()
        given = torch.cat([one.flatten() for one in siblings.optimizers[path].given])  # type: ignore[attr-defined]
        assert distance(given, (alone[0] + alone[1]) / 2) < 1e-6


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"accumulation": 2}, "accumulates 1 batches, and the Trainer's gradient_accumulation_steps is 2"),
        ({"weight_decay": 0.1}, "has a weight_decay of 0, and the Trainer's is 0.1"),
        ({"label_smoothing_factor": 0.1}, "without label_smoothing_factor"),
        ({"neftune_noise_alpha": 5.0}, "without neftune_noise_alpha"),
    ],
)
def test_arguments_that_siblings_do_not_follow(
    nurseries: dict[str, Nursery], options: dict[str, Any], said: str, tmp_path: Path
) -> None:
    nursery = nurseries["llama"]
    path, other = nursery.path("own"), nursery.path("own")
    args = arguments(tmp_path, options.pop("accumulation", 1), **options)
    with nursery.pool() as pool, pool.siblings({path: PLAIN, other: PLAIN}, nursery.parent) as siblings:
        with pytest.raises(UsageError) as found:
            train_siblings(siblings, pool._model, args)
        assert said in str(found.value)


def test_what_the_trainer_counted_has_to_be_what_losses_were_taken_of(nurseries: dict[str, Nursery]) -> None:
    nursery = nurseries["llama"]
    path = nursery.path("own")
    batch = answers([5], seed=1)
    with nursery.pool() as pool, pool.siblings({path: PLAIN}, nursery.parent) as siblings:
        with siblings.rows([path]):
            out = pool._model(batch["input_ids"])
        torch.autograd.backward(siblings.loss(out, batch["labels"], num_items_in_batch=torch.tensor(6)))
        with pytest.raises(UsageError, match="counted 6 labels for an update, and losses were taken of 5"):
            siblings.update_as_trainer()


def test_what_decays_is_what_decays_under_the_trainer(shelf: Shelf, tmp_path: Path) -> None:
    nursery = Nursery(shelf, "bert", classifier)
    path, other = nursery.path("own"), nursery.path("other")
    config = peft.LoraConfig(
        r=2, use_dora=True, target_modules=["query", "word_embeddings"], modules_to_save=["pooler"], task_type="SEQ_CLS"
    )
    decay = {path: 0.25, other: 0.0}
    with (
        nursery.pool() as pool,
        pool.siblings({path: config, other: config}, nursery.parent, weight_decay=decay) as siblings,
    ):
        alone = nursery.alone(config, values_of(siblings, path))
        theirs = Trainer(model=alone, args=arguments(tmp_path, 1)).get_decay_parameter_names(alone)
        trained = {id(one): name for name, one in alone.named_parameters()}
        wanted = {name for name, one in peft_names(alone).items() if trained[id(one)] in theirs}
        names = {id(one): name for name, one in siblings.named_parameters(path).items()}
        groups = siblings.optimizers[path].param_groups
        found = {names[id(one)] for group in groups if group["weight_decay"] == 0.25 for one in group["params"]}
        assert found == wanted != set(names.values())
        assert [group["weight_decay"] for group in siblings.optimizers[other].param_groups] == [0.0]
    with nursery.pool() as pool, pytest.raises(UsageError, match="weight_decay is of AdamW"):
        pool.siblings({path: config}, nursery.parent, weight_decay=0.1, optimizer=lambda given: Still(given, lr=1.0))
