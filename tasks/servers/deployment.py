"""Work pools, deployments and the automation that finds dead runs, on a Prefect server."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

from effnet.errors import ConfigError, RunFailedError
from effnet.outage import OUTAGE_SECONDS

PoolType = Literal["process", "docker", "kubernetes", "ecs"]
POOL_TYPES: tuple[PoolType, ...] = get_args(PoolType)
FLOWS_POOL, TRAININGS_POOL = "effnet", "effnet-gpu"  # as prefect.yaml names them
AUTOMATION = "effnet: a run without a heartbeat has crashed"
BEAT = "PREFECT_FLOWS_HEARTBEAT_FREQUENCY"  # prefect.yaml sets it for every deployment
PAGE = 200  # deployments that a server names at a time, by its own limit
OLD_NAME = "by-hand"  # of deployments of an earlier version, which have other names now
DEFAULT_BEAT_SECONDS = 180  # where it is not set


class Deployed(NamedTuple):
    """A deployment that is registered."""

    name: str  # flow/deployment
    pool: str
    schedule: str  # when it starts by itself; "" if never


def deploy(
    project: Path,
    pool_type: PoolType,
    settings: Mapping[str, str],
    store: str,
    home: str,
    crashed_after: int | None = None,
) -> list[Deployed]:
    """Make or update the work pools, register every deployment of prefect.yaml, and watch for dead runs.

    Args:
        project: folder with prefect.yaml and infra/prefect.
        pool_type: of both pools.
        settings: new defaults for job variables of the trainings pool.
        store: the store that deployed flows use.
        home: folder that flows start in where they run.
        crashed_after: seconds without a heartbeat after which a run counts as crashed; None: see `silence`.

    Raises:
        ConfigError: if files are missing, a variable is not the pool's, or a pool is of another type.
        RunFailedError: if Prefect refuses a deployment.
    """
    from prefect.client.orchestration import get_client

    if not (project / "prefect.yaml").is_file():
        raise ConfigError(
            f"{project / 'prefect.yaml'}: no such file; name a folder that has it with --project, or leave --project "
            "out to use the one that comes with effnet"
        )
    template = pool_template(project, pool_type, settings)
    with get_client(sync_client=True) as client:
        _make_pool(client, FLOWS_POOL, pool_type, None)
        _make_pool(client, TRAININGS_POOL, pool_type, template)
        _register(project, store, home)
        ours = _without_old(client, _ours(client))
        _watch(client, ours, crashed_after)
        return _deployed(client, ours)


def pool_template(project: Path, pool_type: PoolType, settings: Mapping[str, str]) -> dict[str, Any]:
    """Return the base job template of the trainings pool, with other defaults for some of its variables."""
    path = project / "infra" / "prefect" / "work-pools" / f"{pool_type}.json"
    try:
        template: dict[str, Any] = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"{path}: no job template there ({error}); name a folder that has it with --project"
        ) from error
    variables = template["variables"]["properties"]
    for name, text in settings.items():
        if name not in variables:
            raise ConfigError(f"--set {name}: no variable of {pool_type} pools; there are {', '.join(variables)}")
        variables[name]["default"] = _typed(name, text, variables[name].get("type"))
    return template


def _typed(name: str, text: str, kind: str | None) -> Any:
    if kind in (None, "string"):
        return text
    try:
        return json.loads(text)
    except ValueError as error:
        raise ConfigError(f"--set {name}={text}: write a value of type {kind}, as JSON") from error


def _make_pool(client: Any, name: str, pool_type: str, template: dict[str, Any] | None) -> None:
    from prefect.client.schemas.actions import WorkPoolCreate, WorkPoolUpdate
    from prefect.exceptions import ObjectNotFound

    try:
        there = client.read_work_pool(name)
    except ObjectNotFound:
        default = {} if template is None else {"base_job_template": template}
        client.create_work_pool(WorkPoolCreate(name=name, type=pool_type, **default))
        return
    if there.type != pool_type:
        raise ConfigError(
            f"work pool {name}: is of type {there.type} on this server; use --type {there.type}, or remove it with "
            f"`prefect work-pool delete {name}`"
        )
    if template is not None:
        client.update_work_pool(name, WorkPoolUpdate(base_job_template=template))


def _register(project: Path, store: str, home: str) -> None:
    from prefect.settings import get_current_settings

    api = get_current_settings().api
    login = {"PREFECT_API_AUTH_STRING": api.auth_string.get_secret_value()} if api.auth_string else {}
    done = subprocess.run(
        [sys.executable, "-P", "-m", "prefect", "--no-prompt", "deploy", "--all"],
        cwd=project,
        env=os.environ | login | {"PREFECT_API_URL": str(api.url), "EFFNET_STORE": store, "EFFNET_HOME": home},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    if not done.returncode:
        return
    if told := re.search(r"^effnet\.errors\.\w+: (.+)$", done.stderr, re.MULTILINE):  # in a config that it names
        raise ConfigError(told[1])
    lines = (done.stdout + done.stderr).strip().splitlines()
    raise RunFailedError(f"prefect deploy: {lines[-1].strip() if lines else 'failed without a message'}")


def silence(frequencies: Iterable[int]) -> int:
    """Return after how many seconds without a heartbeat a run counts as crashed.

    Heartbeats that a server missed while it was away are lost, and once back it judges at once. So the limit is the
    time that everything here waits for a server that is away, plus three of the slowest heartbeats in use.
    """
    return round(OUTAGE_SECONDS) + 3 * max((DEFAULT_BEAT_SECONDS, *frequencies))


def _watch(client: Any, deployments: Sequence[Any], crashed_after: int | None) -> None:
    """Have the server mark those of our runs as crashed whose process died silently; by itself it does not.

    An existing automation, even of an earlier version, is updated; it stays switched on or off as it was.
    """
    from prefect.automations import AutomationCore

    trigger = _trigger(deployments, crashed_after or silence(_beats(deployments)))
    first, *more = client.read_automations_by_name(AUTOMATION) or (None,)
    wanted = AutomationCore(
        name=AUTOMATION,
        description="No heartbeat for a long time: the process or its machine is gone. Watches only the runs of "
        "effnet's deployments. When its flow runs again, the family resumes where it was.",
        enabled=first.enabled if first else True,
        trigger=trigger,
        actions=[_crash()],
    )
    if first is None:
        client.create_automation(wanted)
    else:
        client.update_automation(first.id, wanted)
    for each in more:
        client.delete_automation(each.id)


def _trigger(deployments: Sequence[Any], seconds: int) -> Any:
    from prefect.automations import EventTrigger, Posture, ResourceSpecification

    return EventTrigger(
        after={"prefect.flow-run.heartbeat"},
        expect={"prefect.flow-run.*"},  # a heartbeat or any state: final states have names of our own, and retries wait
        match=ResourceSpecification({"prefect.resource.id": ["prefect.flow-run.*"]}),
        match_related=ResourceSpecification(
            {
                "prefect.resource.role": ["deployment"],
                "prefect.resource.id": [f"prefect.deployment.{each.id}" for each in deployments],
            }
        ),
        for_each={"prefect.resource.id"},
        posture=Posture.Proactive,
        threshold=1,
        within=timedelta(seconds=seconds),
    )


def _crash() -> Any:
    from prefect.client.schemas.objects import StateType
    from prefect.events.actions import ChangeFlowRunState

    return ChangeFlowRunState(state=StateType.CRASHED, name="Crashed", message="no heartbeat: its process is gone")


def _beats(deployments: Sequence[Any]) -> list[int]:
    return [int(found) for each in deployments if (found := (each.job_variables.get("env") or {}).get(BEAT))]


def _ours(client: Any) -> list[Any]:
    """Return the deployments of our flows on our pools, of every clone that was deployed to this server."""
    from prefect.client.schemas.filters import WorkPoolFilter, WorkPoolFilterName

    pools = WorkPoolFilter(name=WorkPoolFilterName(any_=[FLOWS_POOL, TRAININGS_POOL]))
    found: list[Any] = []
    while page := client.read_deployments(work_pool_filter=pools, limit=PAGE, offset=len(found)):
        found += page
    return [each for each in found if (each.entrypoint or "").startswith("flows.")]


def _without_old(client: Any, deployments: Sequence[Any]) -> list[Any]:
    """Remove the deployments that an earlier version made under another name; return the others."""
    for each in deployments:
        if each.name == OLD_NAME:
            client.delete_deployment(each.id)
    return [each for each in deployments if each.name != OLD_NAME]


def active_schedules(client: Any) -> dict[str, int]:
    """Return the number of scheduled runs of each active schedule of our deployments, by `flow/deployment when`."""
    from prefect.client.schemas.filters import (
        DeploymentFilter,
        DeploymentFilterId,
        FlowRunFilter,
        FlowRunFilterState,
        FlowRunFilterStateType,
    )
    from prefect.client.schemas.objects import StateType

    scheduled = FlowRunFilterState(type=FlowRunFilterStateType(any_=[StateType.SCHEDULED]))
    found = {}
    for each in (each for each in _ours(client) if not each.paused):
        runs = client.read_flow_runs(
            deployment_filter=DeploymentFilter(id=DeploymentFilterId(any_=[each.id])),
            flow_run_filter=FlowRunFilter(state=scheduled),
        )
        makers = Counter(run.created_by.id for run in runs if run.created_by)
        for schedule in (schedule for schedule in each.schedules if schedule.active):
            name = f"{client.read_flow(each.flow_id).name}/{each.name} ({_schedule([schedule]) or schedule.id})"
            found[name] = makers[schedule.id]
    return found


def _deployed(client: Any, deployments: Sequence[Any]) -> list[Deployed]:
    return sorted(
        Deployed(f"{client.read_flow(each.flow_id).name}/{each.name}", each.work_pool_name, _schedule(each.schedules))
        for each in deployments
    )


def _schedule(schedules: Any) -> str:
    shown = [
        f"{each.schedule.cron}{'' if each.active else ' (off)'}" for each in schedules if hasattr(each.schedule, "cron")
    ]
    return ", ".join(shown)
