"""Events that a build sends to Prefect, for automations: a family was built, a champion changed.

They are told once, when it happens; a server that is away misses them, and the work goes on.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from prefect.events import emit_event
from prefect.runtime import flow_run

from effnet.family import FamilyResult
from tasks.build import Build
from tasks.records.registry import CHAMPION, Registered

BUILT, CHAMPION_CHANGED = "effnet.family.built", "effnet.champion.changed"
REPORT = "report.html"


def family_built(build: Build, result: FamilyResult, registered: Sequence[Registered]) -> None:
    """Tell of a family, if anything of it is new: a training, or a model in the registry.

    Args:
        build: the family.
        result: what became of it.
        registered: its members in the registry.
    """
    trained = sum(not member.reused for member in result.members)
    if not (trained or any(each.new for each in registered)):
        return
    use = result.answer
    best = next((member for member in result.members if use and member.name == use.member), None)
    payload: dict[str, Any] = {
        "family": result.family,
        "key": result.key,
        "dataset": result.dataset,
        "best": best.name if best else None,
        "because": use.because if use else None,
        "top1": best.top1 if best else None,
        "latency_ms": best.latency_ms if best else None,
        "members": {member.name: member.top1 for member in result.members},
        "trained": trained,
        "links": _links(build),
    }
    emit_event(BUILT, _resource(result.family), payload=payload)


def champions_changed(build: Build, registered: Sequence[Registered]) -> None:
    """Tell of every model whose champion is another version than before.

    Args:
        build: the family.
        registered: its members in the registry.
    """
    for each in registered:
        if each.took_over:
            payload = {
                "family": build.config.family,
                "model": each.name,
                "old_version": each.before,
                "new_version": each.version,
                "because": each.reason,
                "uri": f"models:/{each.name}@{CHAMPION}",
                "links": _links(build),
            }
            resource = _resource(build.config.family) | {"effnet.model": each.name}
            emit_event(CHAMPION_CHANGED, resource, payload=payload)


def _resource(family: str) -> dict[str, str]:
    return {
        "prefect.resource.id": f"effnet.family.{family}",
        "prefect.resource.name": family,
        "effnet.family": family,
    }


def _links(build: Build) -> dict[str, str | None]:
    """Return the pages that are known: of the family and its report in MLflow, of the flow run here."""
    page = build.tracker.page
    return {"mlflow": page(build.key), "report": page(build.key, REPORT), "flow_run": flow_run.ui_url}
