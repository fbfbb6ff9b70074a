"""What is told to Prefect's automations, and when."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest

from effnet.answer import Answer
from effnet.family import FamilyResult, MemberResult
from tasks import events
from tasks.build import Build
from tasks.records.registry import Registered

BUILD = cast(
    Build,
    SimpleNamespace(
        key="k" * 16,
        config=SimpleNamespace(family="tiny"),
        tracker=SimpleNamespace(page=lambda key, artifact="": f"http://mlflow/{key[:1]}/{artifact}"),
    ),
)


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, dict[str, str], dict[str, Any]]]:
    sent: list[tuple[str, dict[str, str], dict[str, Any]]] = []
    monkeypatch.setattr(events, "emit_event", lambda event, resource, payload: sent.append((event, resource, payload)))
    return sent


def family(*, reused: bool) -> FamilyResult:
    member = MemberResult(
        name="B2", phi=2.0, resolution=8, params=10, macs=20, top1=0.75, top5=0.9, latency_ms=1.5, seconds=3.0,
        run_key="r", mlflow_run_id=None, reused=reused,
    )  # fmt: skip
    answer = Answer(member="B2", because="it is the best")
    return FamilyResult(
        family="tiny", key="k" * 16, dataset="d", val_samples=4, coefficients={}, members=(member,), answer=answer
    )


def registered(**fields: Any) -> Registered:
    given = {"name": "tiny-b2", "version": "7", "new": False, "champion": True, "reason": "better: …"}
    return Registered(**given | fields)


def test_a_family_is_told_of_with_its_answer_and_links(told: list[Any]) -> None:
    events.family_built(BUILD, family(reused=False), [registered()])
    ((event, resource, payload),) = told
    assert event == "effnet.family.built"
    assert resource["prefect.resource.id"] == "effnet.family.tiny"
    assert (payload["best"], payload["because"], payload["top1"]) == ("B2", "it is the best", 0.75)
    assert (payload["trained"], payload["members"]) == (1, {"B2": 0.75})
    assert payload["links"]["report"] == "http://mlflow/k/report.html"


@pytest.mark.parametrize(("new", "times"), [(False, 0), (True, 1)])
def test_one_in_which_nothing_is_new_is_not(told: list[Any], new: bool, times: int) -> None:
    events.family_built(BUILD, family(reused=True), [registered(new=new)])
    assert len(told) == times


def test_only_a_champion_that_took_over_is_told_of(told: list[Any]) -> None:
    events.champions_changed(BUILD, [registered(), registered(took_over=True, before="5"), registered(champion=False)])
    ((event, resource, payload),) = told
    assert event == "effnet.champion.changed"
    assert resource["effnet.model"] == "tiny-b2"
    assert (payload["old_version"], payload["new_version"]) == ("5", "7")
    assert payload["uri"] == "models:/tiny-b2@champion"
