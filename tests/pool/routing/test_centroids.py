"""Routing to the nearest centroid that the tree holds."""

from __future__ import annotations

import doctest
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from registry.errors import NotFoundError, UsageError
from registry.operations.registry import Registry
from registry.pool.routing import Centroids
from registry.pool.routing.route import route
from tests.kit import llama_base
from tests.kit.recipes import write_recipes
from tests.kit.serving import ServedRegistry, open_http
from tests.kit.shelf import Shelf
from tests.kit.variants import VARIANTS
from tests.pool.trees import Tree

SPACE = {"mail": [1.0, 0.1, 0.0], "letter": [0.9, 0.2, 0.1], "code": [0.0, 1.0, 0.1], "python": [0.1, 0.9, 0.0]}


def embed(texts: Sequence[str]) -> torch.Tensor:
    """A text is the sum of its known words, and a third direction where there is none."""
    found = [[SPACE[word] for word in text.split() if word in SPACE] for text in texts]
    return torch.tensor([np.sum(one, axis=0).tolist() if one else [0.0, 0.0, 1.0] for one in found])


@pytest.fixture(scope="module")
def tree(shelf: Shelf) -> Tree:
    found = Tree(shelf, "tied llama")
    for _ in range(3):
        found.publish("plain")
    return found


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory, tree: Tree) -> Iterator[ServedRegistry]:
    served = open_http(tmp_path_factory.mktemp("served"))
    tree.registry.copy(tree.name, served, recursive=True)
    yield served
    served.close()


@pytest.fixture(params=["process", "http"])
def team(request: pytest.FixtureRequest, tree: Tree) -> Registry:
    found: Registry = tree.registry if request.param == "process" else request.getfixturevalue("service")
    return found


def test_the_nearest_answers_and_changes_hold_at_once(tree: Tree, team: Registry) -> None:
    mail, code, other = tree.references
    key = f"centroid:{type(team).__name__}"  # the copy over HTTP has the annotations of the other one
    router = Centroids(team, tree.name, embed, key=key, minimum=0.5)
    with pytest.raises(NotFoundError, match=key):
        router.route(["mail"])
    summary = router.write(mail, ["mail letter", "letter"])
    assert summary.annotations[key].startswith("f16:3:")
    router.write(code, ["code", "python"])
    rows = ["a letter", "python code", "nothing of these"]
    assert route(rows, router) == [mail, code, None]
    assert route([], router) == []
    router.write(other, ["?"])
    assert router.route(rows) == [mail, code, other]
    team.retract(mail, reason="a test")
    assert router.route(rows) == [None, code, other]
    team.retract(mail, undo=True)
    assert router.route(rows) == [mail, code, other]
    team.annotate(other, unset=[key])
    assert router.route(rows) == [mail, code, None]


def test_only_what_has_the_tag_is_a_candidate(tree: Tree) -> None:
    team = tree.registry
    mail, code, _ = tree.references
    router = Centroids(team, tree.name, embed, key="tagged", tag="prod")
    router.write(mail, ["mail"])
    router.write(code, ["code"])
    team.tag(code, "prod")
    assert router.route(["mail", "code"]) == [code, code]
    deeper = Centroids(team, code.partition("@")[0], embed, key="tagged", depth=0)
    assert deeper.route(["mail"]) == [code]
    with pytest.raises(NotFoundError):
        Centroids(team, f"{tree.name}/nothing", embed).route(["mail"])


def test_ties_and_what_is_far_away(tree: Tree) -> None:
    one, other, _ = tree.references
    options: dict[str, Any] = {"key": "tied"}
    router = Centroids(tree.registry, tree.name, embed, **options)
    strict = Centroids(tree.registry, tree.name, embed, **options, unclear="error")
    router.write(one, ["mail"])
    assert strict.route(["mail", "nothing"]) == [one, one]  # one candidate has no rival
    router.write(other, ["mail"])
    assert router.route(["mail", "code"]) == [None, None]
    with pytest.raises(UsageError, match=r"for row 0: .* are as near, at a cosine of 1\.000"):
        strict.route(["mail"])
    router.write(other, ["code"])
    assert strict.route(["mail", "code"]) == [one, other]
    wide = Centroids(tree.registry, tree.name, embed, **options, margin=1.0)
    assert wide.route(["mail"]) == [None]
    with pytest.raises(UsageError, match=r"row 0: the nearest is .*, at a cosine of 0\.099"):
        Centroids(tree.registry, tree.name, embed, **options, minimum=0.5, unclear="error").route(["nothing"])
    with pytest.raises(UsageError, match="'base' or 'error'"):
        Centroids(tree.registry, tree.name, embed, unclear="none")  # type: ignore[arg-type]


def test_centroids_of_another_embedding_are_refused(tree: Tree) -> None:
    one, other, _ = tree.references
    router = Centroids(tree.registry, tree.name, embed, key="mixed")
    router.write(one, ["mail"])
    longer = Centroids(tree.registry, tree.name, lambda texts: torch.ones(len(texts), 5), key="mixed")
    with pytest.raises(UsageError, match="gives 5 numbers, and the centroids 'mixed' have 3"):
        longer.route(["mail"])
    longer.write(other, ["mail"])
    with pytest.raises(UsageError, match=r"has 5 numbers, and that of .* has 3"):
        router.route(["mail"])
    tree.registry.annotate(other, annotations={"mixed": "[1, 2, 3]"})
    with pytest.raises(UsageError, match=f"'mixed' of {other} is no centroid"):
        router.route(["mail"])
    with pytest.raises(UsageError, match="shape"):
        Centroids(tree.registry, tree.name, lambda _: torch.ones(3, 3), key="mixed").write(one, ["mail"])


def test_the_answer_equals_a_computation_in_numpy(tree: Tree) -> None:
    chance = np.random.default_rng(5)
    means = chance.standard_normal((3, 32)) + 1.0
    team = tree.registry
    for reference, mean in zip(tree.references, means, strict=True):
        examples = mean + 0.1 * chance.standard_normal((8, 32))
        Centroids(team, tree.name, np.stack, key="random").write(reference, list(examples))
    rows = chance.standard_normal((200, 32)) + 1.0
    found = Centroids(team, tree.name, np.stack, key="random").route(list(rows.astype(np.float32)))
    cosines = (rows / np.linalg.norm(rows, axis=1, keepdims=True)) @ (means / np.linalg.norm(means, axis=1)[:, None]).T
    ordered = np.sort(cosines, axis=1)
    clear = ordered[:, -1] - ordered[:, -2] > 0.1  # the centroids are those of samples
    assert clear.sum() > 50
    for row in np.flatnonzero(clear):
        assert found[row] == tree.references[cosines[row].argmax()]


def test_the_example_of_the_docstring(shelf: Shelf) -> None:
    base = shelf.base("llama", llama_base, seed=4)
    recipes = [replace(VARIANTS["llama"]["plain"], seed=seed) for seed in range(3)]
    first, second, french = write_recipes(shelf.folder(), base, recipes)
    for folder in (first, second):
        shelf.registry.publish(folder, "llama/support")
    shelf.registry.publish(french, "llama/support/french", parent="llama/support@2", skip_parent_check=True)
    names = {"team": shelf.registry, "Centroids": Centroids}
    example = doctest.DocTestParser().get_doctest(Centroids.__doc__ or "", names, "Centroids", None, 0)
    told: list[str] = []
    result = doctest.DocTestRunner().run(example, out=told.append)
    assert not told, "".join(told)
    assert result.attempted == 5
