"""What the team of the gallery published, in rows: the values of `tests.kit.gallery`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Final

from tests.kit.gallery_weights import Shape
from tests.kit.recipes import Recipe

LLAMA: Final = "llama-3.2-1b"
MIXTRAL: Final = "mixtral-8x7b"
GPT2: Final = "gpt2"
EMPTY: Final = "qwen-0.5b"
HOSTILE: Final = "pen-test"

_QV: Final = ("q_proj", "v_proj")
_ATTENTION: Final = ("q_proj", "k_proj", "v_proj", "o_proj")
_ALL: Final = (*_ATTENTION, "gate_proj", "up_proj", "down_proj")


@dataclass(frozen=True)
class Told:
    """A publish: of what, by whom, how many days ago."""

    path: str
    days: float
    by: str
    message: str
    recipe: Recipe
    shape: Shape
    metrics: Mapping[str, float] = field(default_factory=dict)
    annotations: Mapping[str, str] = field(default_factory=dict)
    tags: tuple[str, ...] = ()
    parent: int | None = None  # the number of the parent's revision; None: its only one, or the base model
    readme: str | None = None  # README.md of the publish folder


def _run(number: int, rate: str, **more: str) -> dict[str, str]:
    """Annotations as a trainer writes them."""
    commit = f"{number * 2654435761 % 2**32:08x}"
    return {
        "learning_rate": rate,
        "run_id": f"https://wandb.ai/acme/adapters/runs/{number:08x}",
        "git_commit": f"https://github.com/acme/adapters/commit/{commit}",
        **more,
    }


def _scores(acc: float, loss: float, **more: float) -> dict[str, float]:
    return {"acc": acc, "loss": loss, **more}


SUPPORT: Final = Recipe(_ALL, r=8, alpha=16, seed=1)
LEGAL: Final = Recipe(_QV, r=16, alpha=16, seed=2, dtype="BF16")
CODE: Final = Recipe((*_ATTENTION, "down_proj"), r=16, alpha=32, rslora=True, seed=3)
MEDICAL: Final = Recipe(_ATTENTION, r=8, alpha=16, seed=4)
_EXPERTS: Final = Recipe(_QV, ("mlp.experts.gate_up_proj", "mlp.experts.down_proj"), r=4, alpha=8, seed=6)

_SUPPORT: Final = (
    Told("support", 96, "ana", "Support tickets of 2025, first run", SUPPORT, Shape(11, size=0.1),
         _scores(0.712, 1.41), _run(11, "2e-4", dataset="tickets-2025"), ("staging",)),
    Told("support", 83, "ana", "Cleaned: signatures and quoted mails taken out", SUPPORT, Shape(12, size=0.11),
         _scores(0.764, 1.22), _run(12, "2e-4", dataset="tickets-2025-clean"), ("prod",)),
    Told("support", 61, "ben", "Longer context, 3 epochs", SUPPORT, Shape(13, size=0.14),
         _scores(0.803, 1.09), _run(13, "1e-4", dataset="tickets-2025-clean", epochs="3"), ("staging",)),
    Told("support", 33, "ana", "Tickets up to June; refusals rewritten by the support leads", SUPPORT,
         Shape(14, size=0.15, share=0.7), _scores(0.841, 0.97), _run(14, "1e-4", dataset="tickets-2026-06"),
         ("staging",)),
    Told("support", 9, "ci", "Nightly: tickets up to October\n\nTrained by the pipeline.", SUPPORT,
         Shape(15, size=0.15, share=0.7), _scores(0.847, 0.95), _run(15, "1e-4", dataset="tickets-2026-10"),
         ("candidate",)),
    Told("support/french", 80, "chloe", "French tickets on top of support", SUPPORT, Shape(21, peak=0.4),
         _scores(0.688, 1.52), _run(21, "2e-4", dataset="tickets-fr"), (), 2),
    Told("support/french", 58, "chloe", "Tutoiement taken out", SUPPORT, Shape(22, peak=0.4),
         _scores(0.741, 1.31), _run(22, "1e-4", dataset="tickets-fr-vous"), ("prod",), 2),
    Told("support/french", 30, "chloe", "On the new support; vouvoiement throughout", SUPPORT, Shape(23, peak=0.45),
         _scores(0.806, 1.07), _run(23, "1e-4", dataset="tickets-fr-vous"), ("staging",), 4, "french"),
    Told("support/french/formal", 52, "chloe", "Letters instead of mails", replace(SUPPORT, targets=_QV, r=4, alpha=8),
         Shape(31, peak=0.8), _scores(0.733, 1.35), _run(31, "1e-4"), (), 2),
    Told("support/french/formal", 27, "chloe", "Again on french@3", replace(SUPPORT, targets=_QV, r=4, alpha=8),
         Shape(32, peak=0.8), _scores(0.792, 1.12), _run(32, "1e-4"), ("prod",), 3),
    Told("support/french/formal/bank", 25, "dmitri", "Wording of the bank", replace(SUPPORT, targets=_QV, r=2, alpha=4),
         Shape(33, peak=0.9, width=0.15), _scores(0.815, 1.01), _run(33, "5e-5"), ("prod",), 2),
    Told("support/french/quebec", 24, "chloe", "Québec: courriels, clavardage", SUPPORT, Shape(41, peak=0.3),
         _scores(0.781, 1.16), _run(41, "1e-4"), (), 3),
    Told("support/german", 55, "ben", "German tickets", SUPPORT, Shape(51), _scores(0.722, 1.4), _run(51, "2e-4"),
         (), 3),
    Told("support/german", 29, "ben", "German on support@4", SUPPORT, Shape(52), _scores(0.798, 1.1),
         _run(52, "1e-4"), ("prod",), 4),
    Told("support/billing", 50, "ana", "Invoices and refunds", replace(SUPPORT, dora=True), Shape(61, peak=0.7),
         _scores(0.77, 1.2), _run(61, "1e-4"), (), 3),
    Told("support/billing", 28, "ana", "Invoices and refunds on support@4", replace(SUPPORT, dora=True),
         Shape(62, peak=0.7), _scores(0.824, 1.0), _run(62, "1e-4"), ("prod",), 4),
    Told("support/billing/refunds", 26, "ana", "Refunds only", replace(SUPPORT, targets=_QV, r=4),
         Shape(63, peak=0.9), _scores(0.851, 0.93), _run(63, "5e-5"), ("prod",), 2),
    Told("support/triage", 22, "ben", "Routes tickets to queues; its head is its own",
         replace(SUPPORT, targets=_QV, replaced=("lm_head",)), Shape(71), _scores(0.912, 0.41), _run(71, "2e-4"),
         ("prod",), 4),
)  # fmt: skip

_OTHERS: Final = (
    Told("legal", 90, "dmitri", "Contracts of the public register", LEGAL, Shape(81, decay=5), _scores(0.69, 1.6),
         _run(81, "3e-4")),
    Told("legal", 40, "dmitri", "Twice the data; rank 16 was more than it needed", LEGAL, Shape(82, decay=7),
         _scores(0.74, 1.38), _run(82, "3e-4"), ("prod",)),
    Told("legal/contracts", 38, "dmitri", "Clauses and their risks", LEGAL, Shape(83, decay=6), _scores(0.765, 1.3),
         _run(83, "2e-4"), (), 2),
    Told("legal/contracts/nda", 36, "dmitri", "Non-disclosure agreements", replace(LEGAL, r=4, alpha=4), Shape(84),
         _scores(0.81, 1.18), _run(84, "2e-4"), ("prod",)),
    Told("legal/gdpr", 35, "dmitri", "Data protection", LEGAL, Shape(85, decay=6), _scores(0.751, 1.33),
         _run(85, "2e-4"), (), 2),
    Told("legal/terms", 34, "chloe", "Terms of art have tokens of their own",
         replace(LEGAL, tokens={"embed_tokens": (7, 11, 13, 17)}), Shape(86), _scores(0.748, 1.34), _run(86, "2e-4"),
         (), 2),
    Told("code", 75, "emre", "Our repositories, fill in the middle", CODE, Shape(91, peak=0.8), _scores(0.41, 1.8),
         _run(91, "2e-4")),
    Told("code", 47, "emre", "With tests and reviews", CODE, Shape(92, peak=0.8), _scores(0.455, 1.66),
         _run(92, "2e-4"), ("prod",), None, "code"),
    Told("code/python", 45, "emre", "Python", CODE, Shape(93, peak=0.7), _scores(0.521, 1.47), _run(93, "2e-4"),
         ("prod",), 2),
    Told("code/sql", 44, "ana", "Our schemas", replace(CODE, r=8), Shape(94), _scores(0.63, 1.2), _run(94, "2e-4"),
         (), 2),
    Told("medical", 70, "ben", "Discharge letters", MEDICAL, Shape(101), _scores(0.66, 1.55), _run(101, "2e-4")),
    Told("medical", 48, "ben", "Discharge letters, second hospital", MEDICAL, Shape(102), _scores(0.71, 1.4),
         _run(102, "2e-4"), ("prod",)),
    Told("medical/radiology", 46, "ben", "Findings", MEDICAL, Shape(103), _scores(0.735, 1.33), _run(103, "1e-4"),
         (), 2),
    Told("medical/radiology/chest", 43, "ben", "Chest", replace(MEDICAL, targets=_QV), Shape(104),
         _scores(0.77, 1.21), _run(104, "1e-4"), (), 1),
)  # fmt: skip

RATES: Final = ("5e-5", "1e-4", "2e-4", "3e-4", "5e-4", "1e-3")
_SWEEP: Final = tuple(
    Told(f"code/python/sweep-{rate}", 20 - number * 0.1, "ci", f"Learning rate {rate}", replace(CODE, r=rank),
         Shape(110 + number, share=0.75, size=0.03 * (number + 1)),
         _scores(0.53 + 0.035 * number - 0.006 * number**2, 1.45 - 0.11 * number + 0.02 * number**2),
         _run(110 + number, rate, sweep="python-rates"))
    for number, (rate, rank) in enumerate(zip(RATES, (8, 8, 16, 16, 32, 32), strict=True))
)  # fmt: skip

ADAPTERS: Final[Mapping[str, tuple[Told, ...]]] = {
    LLAMA: (*_SUPPORT, *_OTHERS, *_SWEEP),
    MIXTRAL: (
        Told("chat", 65, "emre", "General chat", _EXPERTS, Shape(121), _scores(0.7, 1.3), _run(121, "1e-4")),
        Told("chat", 19, "emre", "Chat with tools removed", _EXPERTS, Shape(122, decay=2), _scores(0.73, 1.2),
             _run(122, "1e-4"), ("prod",)),
        Told("chat/tools", 18, "emre", "Calls of tools", _EXPERTS, Shape(123), _scores(0.62, 1.5), _run(123, "1e-4"),
             (), 2),
        Told("summaries", 17, "ana", "Meetings", replace(_EXPERTS, targets=("q_proj", "o_proj"), seed=7), Shape(124),
             _scores(0.58, 1.7), _run(124, "1e-4")),
    ),
    GPT2: (
        Told("poems", 14, "chloe", "Sonnets", Recipe(("c_attn", "c_proj", "c_fc"), r=4, alpha=8, seed=8), Shape(131),
             {"loss": 3.1}),
        Told("poems/haiku", 13, "chloe", "", Recipe(("c_attn",), r=2, alpha=4, seed=9), Shape(132), {"loss": 2.7}),
    ),
}  # fmt: skip
"""Without the name of the base model in the paths."""
