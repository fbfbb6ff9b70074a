"""What changed from one build to the next: never better without an interval that says so."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from effnet.history import Built, BuiltMember, Changes, Pair, compare, pairs_wanted, told

IMAGES = 1000
CONFIG = {
    "seed": 0,
    "store": "here",
    "recipe": {"epochs": 8, "left_open": []},
    "members": {"phi": [0, 1]},
    "study": None,
}


def member(name: str, top1: float, run: str) -> BuiltMember:
    return BuiltMember(name=name, top1=top1, runs=(run,))


def built(**changes: Any) -> Built:
    """Return a build of two members, of which B1 is the one to use."""
    made = Built(
        key="a" * 16, at="2026-11-26T18:03:44+00:00", config=CONFIG, dataset="d" * 16,
        samples={"train": 800, "minival": 100, "val": 100}, classes=2, environment={"torch": "2.8"}, coefficients={},
        answer="B1", members=(member("B0", 0.8, "r0"), member("B1", 0.9, "r1")),
        runs={"train members": ("r0", "r1")},
    )  # fmt: skip
    return made.model_copy(update=changes)


def retrained(top1: float) -> Built:
    """Return the build with another training of B1."""
    members = (built().members[0], member("B1", top1, "r2"))
    return built(key="b" * 16, members=members, runs={"train members": ("r0", "r2")})


def hits(right: int, of: int = IMAGES) -> np.ndarray:
    return (np.arange(of) < right)[None]


def rows(changes: Changes) -> dict[str, str]:
    return dict(told(changes))


def test_the_same_build_at_another_time_is_the_same() -> None:
    assert built().same(built(at="2026-11-27T00:00:00+00:00"))
    assert not built().same(built(environment={"torch": "2.9"}))


def test_what_is_different_is_told_old_and_new() -> None:
    config = CONFIG | {
        "seed": 1,
        "store": "there",
        "recipe": {"epochs": 10, "left_open": ["epochs"]},
        "study": {"seeds": 3},
    }
    now = built(
        config=config, dataset="e" * 16, samples={"train": 900, "minival": 100, "val": 100}, classes=3,
        environment={"torch": "2.9"}, coefficients={"alpha": 1.2},
    )  # fmt: skip
    found = rows(compare(built(), now, ["r1"], {}, (["cat", "dog"], ["dog", "emu", "fox"])))
    assert found["config"] == 'seed 0 → 1; recipe.epochs 8 → 10; study none → {"seeds": 3}'
    assert found["data"] == (
        f"dataset {'d' * 16} → {'e' * 16}; images 1,000 → 1,100; classes 2 → 3; train 800 → 900; "
        "classes added: emu, fox; classes removed: cat"
    )
    assert found["versions"] == "torch 2.8 → 2.9"
    assert found["α, β, γ"] == "alpha none → 1.2"
    assert found["trainings"] == "train members: 1 new, 1 reused"


def test_what_is_the_same_is_told_to_be() -> None:
    found = rows(compare(built(), built(environment={"torch": "2.9"}), [], {}))
    assert (found["config"], found["data"]) == ("as before", "as before")
    assert found["trainings"] == "train members: 2 reused"
    assert found["members"] == "B0, B1: the same models"
    assert found["use"] == "B1, as before: top-1 90.00% → 90.00%, the same models"


def test_of_many_fields_the_terminal_names_a_few() -> None:
    config = {f"field{number}": 1 for number in range(9)}
    changes = compare(built(config={}), built(config=config), [], {})
    assert dict(told(changes, 2))["config"] == "field0 none → 1; field1 none → 1; 7 more"
    assert rows(changes)["config"].count("→") == 9


def test_a_lead_within_its_interval_is_a_tie_and_a_wider_one_is_better_or_worse() -> None:
    assert [(old.name, one.name) for old, one in pairs_wanted(built(), retrained(0.9))] == [("B1", "B1")]
    for right, verdict in ((905, "a tie"), (950, "better"), (850, "worse")):
        now = retrained(right / IMAGES)
        changes = compare(built(), now, ["r2"], {("B1", "B1"): Pair(hits(900), hits(right))})
        effect = changes.members[1]
        assert effect.verdict == verdict, right
        assert effect.lead == pytest.approx((right - 900) / IMAGES)
        assert f"± {100 * effect.noise:.2f} points on the same 1,000 images, seeds not counted" in rows(changes)["use"]
        assert rows(changes)["members"] == f"B0: the same models; B1: {verdict}"


def test_without_the_same_images_nothing_is_better() -> None:
    changes = compare(built(), retrained(0.99), ["r2"], {})
    assert changes.answer is not None
    assert changes.answer.told == "top-1 90.00% → 99.00%, not comparable: no image of val is the same"


def test_another_member_to_use_is_compared_with_the_one_before() -> None:
    now = built(key="b" * 16, answer="B0")
    assert [(old.name, one.name) for old, one in pairs_wanted(built(), now)] == [("B1", "B0")]
    found = rows(compare(built(), now, [], {("B1", "B0"): Pair(hits(900), hits(800))}))
    assert found["use"].startswith("B1 → B0: top-1 90.00% → 80.00%, -10.00 ± ")
    assert found["use"].endswith(": worse")


def test_members_that_came_and_went_are_named() -> None:
    now = built(members=(built().members[0], member("B2", 0.9, "r3")), answer=None)
    changes = compare(built(), now, ["r3"], {})
    assert rows(changes)["members"] == "B2: new; B1: gone; B0: the same models"
    assert "use" not in rows(changes)
