"""A registry as a team leaves it after three months: small real adapters, and everything that pages show of them.

``python -m tests.kit.gallery FOLDER`` makes one, and says how to serve it. Names, weights, texts and days are the same
each time; digests of revisions too, but the times within a day are not.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final

from registry.catalogue.team import jobs as job_rows
from registry.operations import table
from registry.operations.operation import Job
from registry.rights import UNLIMITED, Principal, Role
from registry.schemas import Schema
from registry.schemas.requests import DenseStatisticsRequest, GcRequest, MaterialiseRequest
from registry.schemas.running import NameReport
from registry.services.jobs import KINDS, Runner, submit
from registry.services.loads import UseLog
from registry.services.local import LocalRegistry
from tests.kit.bases import Base, add_tokenizer, gpt2_base, llama_base
from tests.kit.gallery_clock import StoryClock
from tests.kit.gallery_hostile import ADAPTER, publish_hostile
from tests.kit.gallery_story import ADAPTERS, EMPTY, GPT2, LLAMA, MIXTRAL, Told
from tests.kit.gallery_texts import ATTACKS, CARDS
from tests.kit.gallery_weights import write_changed, write_shaped, write_untrained
from tests.kit.kinds_of_bases import mixtral_base

SCOPE: Final = f"{LLAMA}/support"
"""What the scoped tokens see."""
_TRAINED_ON: Final = {
    LLAMA: "meta-llama/Llama-3.2-1B",
    MIXTRAL: "mistralai/Mixtral-8x7B-v0.1",
    GPT2: "openai-community/gpt2",
}
MEASURED: Final = 62
"""For so many days there has been a service, which measures what is published: older revisions have no figures."""
_TOKENS: Final[Mapping[str, tuple[Role, tuple[str, ...]]]] = {
    "admin": ("admin", ()),
    "writer": ("writer", ()),
    "reader": ("reader", ()),
    "scoped reader": ("reader", (SCOPE,)),
    "scoped writer": ("writer", (SCOPE,)),
}
_BASES: Final[Mapping[str, Callable[[Path], Base]]] = {
    LLAMA: lambda folder: llama_base(folder, layers=8, hidden=48, mlp=96, vocab=64, dtype="BF16", shards=2, scale=0.05),
    MIXTRAL: lambda folder: mixtral_base(folder, layers=4, experts=4, dtype="BF16"),
    GPT2: lambda folder: gpt2_base(folder, layers=4),
    EMPTY: lambda folder: llama_base(folder, layers=2, tied=True, seed=5),
}


@dataclass(frozen=True)
class Gallery:
    """A folder with the registry, and the secrets of its tokens by who has them."""

    folder: Path
    secrets: Mapping[str, str]


def make_gallery(folder: Path, *, notes: Callable[[str], None] = lambda _: None) -> Gallery:
    """Make the registry in a folder that holds none yet."""
    with tempfile.TemporaryDirectory() as work, closing(LocalRegistry.open(folder, actor="ops")) as registry:
        team = _Team(registry, Path(work), StoryClock(datetime.now(UTC)))
        team.add_bases()
        story = sorted(team.story(), key=lambda step: -step[0])
        for days_ago, step in story:
            with team.at(days_ago):
                step()
        team.use()
        team.clock.turn(0.01)
        secrets = team.tokens()
        team.clock.rewrite(registry.deployment.database)
        _follow(registry)
        notes(f"{len(story)} steps")
        return Gallery(folder, secrets)


def _follow(registry: LocalRegistry) -> None:
    """Two engines that follow what a scope shows and what it hides, and one of somebody who attacks."""
    name = f"{LLAMA}/support@prod"
    for number, serves in ((7, 2), (8, 1)):
        said = [NameReport(name=name, serves=serves, wants=2), NameReport(name=f"{LLAMA}/legal@prod", serves=1)]
        registry.report(f"{number:032x}", "vllm", f"vllm=http://10.0.0.{number}:8000", said, version="0.4.0")
    for number, attack in enumerate(ATTACKS):
        said = [NameReport(name=f"{ADAPTER}@javascript.x", serves=9, code="hacked", error=attack[:500])]
        registry.report(f"{number:032x}", "folder", attack[:256], said, version=attack[:64])


@dataclass
class _Team:
    registry: LocalRegistry
    work: Path
    clock: StoryClock
    bases: dict[str, Base] = field(default_factory=dict)
    folders: dict[str, Path] = field(default_factory=dict)  # reference -> what was published
    numbers: int = 0

    def who(self, name: str, *, jobs: bool = True) -> LocalRegistry:
        registry = self.registry.with_principal(Principal(name, UNLIMITED))
        return registry.with_jobs() if jobs else registry

    def new_folder(self) -> Path:
        self.numbers += 1
        return self.work / str(self.numbers)

    @contextmanager
    def at(self, days_ago: float) -> Iterator[None]:
        self.clock.turn(days_ago)
        yield
        self.run_jobs()

    def run_jobs(self) -> None:
        """Run what a service would run by now."""
        deployment = self.registry.deployment
        with closing(Runner(deployment)) as runner:
            while True:
                with deployment.read_everything() as session:
                    waiting = job_rows.waiting(session, tuple(KINDS), limit=50)
                if not waiting:
                    return
                for one in waiting:
                    runner.run_until(deployment, one, 120)

    def add_bases(self) -> None:
        self.clock.turn(100)
        for name, make in _BASES.items():
            self.bases[name] = make(self.new_folder())
            add_tokenizer(self.bases[name].folder)
            self.registry.add_base(name, self.bases[name].folder)
        for pattern in ("prod", "release-*"):
            self.registry.protect_tag(LLAMA, pattern)

    def story(self) -> Iterator[tuple[float, Callable[[], object]]]:
        for base, adapters in ADAPTERS.items():
            for told in adapters:
                yield told.days, lambda base=base, told=told: self.publish(base, told)  # type: ignore[misc]
        yield 60, lambda: self.who("ana").tag(f"{LLAMA}/support@3", "prod")
        yield 57, lambda: self.who("ana").tag(f"{LLAMA}/support@2", "prod")  # back, at night
        yield 54, lambda: self.who("ana").tag(f"{LLAMA}/support@3", "prod")
        yield 21, lambda: self.who("ana").tag(f"{LLAMA}/support@4", "prod")
        yield 21.5, lambda: self.who("chloe").tag(f"{LLAMA}/support/french@3", "prod")
        yield 16, self.publish_odd
        yield 12, lambda: self.who("ben").retract(f"{LLAMA}/medical@1", reason="Names of patients were in the data.")
        yield 5, self.retract_under_way
        card = "# Support\n\nAnswers tickets in English. Ask #support-models before you move `prod`.\n"
        yield 8, lambda: self.who("ana").set_card(f"{LLAMA}/support", card)
        yield (
            7,
            lambda: self.who("ana").annotate(
                f"{LLAMA}/support@5", metrics={"csat": 4.4}, annotations={"eval": "human"}
            ),
        )
        yield 6.5, lambda: publish_hostile(self.who("mallory"), self.work / "hostile")
        yield 6, lambda: self.measure(f"{LLAMA}/support/french@3", f"{LLAMA}/support@4", f"{LLAMA}/legal@2")
        yield 4, self.jobs
        yield 0.1, self.begin_job

    def publish(self, base: str, told: Told) -> None:
        config = {"base_model_name_or_path": _TRAINED_ON[base], **told.recipe.config}
        recipe = replace(told.recipe, config=config)
        folder = write_shaped(self.new_folder(), self.bases[base], recipe, told.shape)
        if told.readme is not None:
            (folder / "README.md").write_text(CARDS[told.readme])
        self.publish_folder(f"{base}/{told.path}", folder, told)

    def publish_folder(self, path: str, folder: Path, told: Told) -> None:
        parent = f"{path.rpartition('/')[0]}@{told.parent}" if told.parent else None
        who = self.who(told.by) if told.days < MEASURED else self.who(told.by, jobs=False)
        published = who.publish(
            folder,
            path,
            parent=parent,
            message=told.message,
            metrics=told.metrics,
            tags=told.tags,
            annotations=told.annotations,
        )
        self.folders[published.revision.reference] = folder

    def publish_odd(self) -> None:
        """What notices are about: the same files twice, nearly the same, nothing learned, the parent taken back."""
        story = {f"{LLAMA}/{told.path}": told for told in ADAPTERS[LLAMA]}
        odd = replace(story[f"{LLAMA}/code/python"], by="emre", tags=(), parent=2)
        python = self.folders[f"{LLAMA}/code/python@1"]
        self.publish_folder(f"{LLAMA}/code/python-again", python, replace(odd, message="From another machine"))
        almost = write_changed(self.new_folder(), python, 1.0, noise=0.02)
        self.publish_folder(f"{LLAMA}/code/python-seed-2", almost, replace(odd, message="Another seed"))
        back = write_changed(self.new_folder(), python, -0.8)
        self.publish_folder(f"{LLAMA}/code/python/unlearn", back, replace(odd, message="Less of it", parent=1))
        none = write_untrained(self.new_folder(), self.bases[LLAMA], ("q_proj", "v_proj"), 4)
        self.publish_folder(f"{LLAMA}/code/rust", none, replace(odd, message="Rust", metrics={}))

    def measure(self, *references: str) -> None:
        """What is kept of revisions because somebody asked for it once."""
        for reference in references:
            self.registry.stats(reference, fidelity="bf16")
            for engine in ("vllm", "sglang", "peft", "transformers"):
                self.registry.check(reference, engine=engine)
        self.registry.materialise(references[0], kind="merged", expires_in=30 * 86400)

    def retract_under_way(self) -> None:
        """A retraction, because of which a job fails."""
        request = MaterialiseRequest(ref=f"{LLAMA}/medical/radiology/chest@1", kind="merged")
        submit(self.who("ops").deployment, table.MATERIALISE, request)
        self.who("ben").retract(f"{LLAMA}/medical/radiology@1", reason="Trained on withdrawn scans.")

    def jobs(self) -> None:
        """Jobs that ended well."""
        asked: tuple[tuple[Job[Any, Any], Schema], ...] = (
            (table.MATERIALISE, MaterialiseRequest(ref=f"{LLAMA}/legal@2", kind="lora")),
            (table.DENSE_STATS, _dense(f"{LLAMA}/support/billing@2")),
            (table.GC, GcRequest(dry_run=True)),
        )
        for job, request in asked:
            submit(self.who("ops").deployment, job, request)

    def begin_job(self) -> None:
        """A job that another replica works on, and goes on working on."""
        deployment, lease = self.who("ana").deployment, timedelta(days=3650)
        job = submit(deployment, table.DENSE_STATS, _dense(f"{LLAMA}/support@5")).id

        def work(session: Any) -> None:
            job_rows.claim(session, "gallery", tuple(KINDS), operation_id=job, lease=lease)
            job_rows.renew(session, job, "gallery", stage="Computing dense statistics", done=31, total=56, lease=lease)

        deployment.change(work)

    def use(self) -> None:
        """Weights were asked for on some days, through several interfaces."""
        deployment = self.registry.deployment
        for days_ago in (24, 3, 1):
            log = UseLog(deployment.database, clock=lambda days=days_ago: self.clock.now - timedelta(days=days))  # type: ignore[misc]
            for name, reference in (("vllm", "support@4"), ("hub", "support/french@3"), ("fetch", "legal@2")):
                for _ in range(1 + 40 // days_ago):
                    log.note(f"{LLAMA}/{reference}", name, Principal("prod-cluster", UNLIMITED))  # type: ignore[arg-type]
            log.close()

    def tokens(self) -> dict[str, str]:
        secrets = {}
        for name, (role, scopes) in _TOKENS.items():
            secrets[name] = self.registry.create_token(role, name=name, scopes=scopes).secret
        old = self.registry.create_token("writer", name="laptop of dmitri")
        self.registry.revoke_token(old.token.id)
        self.registry.create_token("reader", name="prod-cluster", expires_in=90 * 86400)
        return secrets | {"revoked": old.secret}


def _dense(reference: str) -> DenseStatisticsRequest:
    return DenseStatisticsRequest(ref=reference)


def main(folder: Path) -> None:
    """Make a gallery and say how to look at it."""
    if folder.exists() and any(folder.iterdir()):
        raise SystemExit(f"{folder} is not empty; name a new folder.")
    gallery = make_gallery(folder)
    for name, secret in gallery.secrets.items():
        print(f"{name}: {secret}")
    print(f"\nREGISTRY_URL={folder.absolute()} registry serve")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
