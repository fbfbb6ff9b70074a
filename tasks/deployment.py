"""Work pools, deployments and the automation that finds dead runs, on a Prefect server."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

from effnet.errors import ConfigError, RunFailedError

PoolType = Literal["process", "docker", "kubernetes", "ecs"]
POOL_TYPES: tuple[PoolType, ...] = get_args(PoolType)
FLOWS_POOL, TRAININGS_POOL = "effnet", "effnet-gpu"  # as prefect.yaml names them
AUTOMATION = "effnet: a run without a heartbeat has crashed"
HEARTBEAT_SECONDS = 30  # PREFECT_FLOWS_HEARTBEAT_FREQUENCY of the workers; Prefect allows no less


class Deployed(NamedTuple):
    """A deployment that is registered."""

    name: str  # flow/deployment
    pool: str
    schedule: str  # "", or when it starts by itself


def deploy(project: Path, pool_type: PoolType, settings: Mapping[str, str], store: str, home: str) -> list[Deployed]:
    """Make or update the work pools, register every deployment of prefect.yaml, and watch for dead runs.

    Args:
        project: folder with prefect.yaml and infra/prefect.
        pool_type: of both pools.
        settings: defaults of the trainings pool's job variables to replace.
        store: the store that deployed flows use.
        home: folder that flows start in where they run.

    Raises:
        ConfigError: if files are missing, a variable is not the pool's, or a pool is of another type.
        RunFailedError: if Prefect refuses a deployment.
    """
    from prefect.client.orchestration import get_client

    if not (project / "prefect.yaml").is_file():
        raise ConfigError(f"{project / 'prefect.yaml'}: no such file; run this in a clone of effnet, or give --project")
    template = pool_template(project, pool_type, settings)
    with get_client(sync_client=True) as client:
        _make_pool(client, FLOWS_POOL, pool_type, None)
        _make_pool(client, TRAININGS_POOL, pool_type, template)
        _register(project, store, home)
        _watch(client)
        return _deployed(client)


def pool_template(project: Path, pool_type: PoolType, settings: Mapping[str, str]) -> dict[str, Any]:
    """Return the base job template of the trainings pool, with other defaults for some of its variables."""
    path = project / "infra" / "prefect" / "work-pools" / f"{pool_type}.json"
    try:
        template: dict[str, Any] = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path}: no job template there ({error}); give a clone of effnet with --project") from error
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

    url = get_current_settings().api.url
    done = subprocess.run(
        [sys.executable, "-P", "-m", "prefect", "--no-prompt", "deploy", "--all"],
        cwd=project,
        env=os.environ | {"PREFECT_API_URL": str(url), "EFFNET_STORE": store, "EFFNET_HOME": home},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        lines = (done.stderr + done.stdout).strip().splitlines()
        raise RunFailedError(f"prefect deploy: {lines[-1].strip() if lines else 'failed without a word'}")


def _watch(client: Any) -> None:
    """Have the server mark runs as crashed whose process has gone without a word; the open-source one does not."""
    from prefect.automations import AutomationCore, EventTrigger, Posture, ResourceSpecification
    from prefect.client.schemas.objects import StateType
    from prefect.events.actions import ChangeFlowRunState

    if client.read_automations_by_name(AUTOMATION):
        return
    client.create_automation(
        AutomationCore(
            name=AUTOMATION,
            description="Three heartbeats missed: the process or its machine is gone. effnet's own trainings start "
            "again by themselves; the family goes on where it was when its flow runs again.",
            trigger=EventTrigger(
                after={"prefect.flow-run.heartbeat"},
                expect={
                    "prefect.flow-run.heartbeat",
                    *(f"prefect.flow-run.{state}" for state in ("Completed", "Failed", "Cancelled", "Crashed")),
                },
                match=ResourceSpecification({"prefect.resource.id": ["prefect.flow-run.*"]}),
                for_each={"prefect.resource.id"},
                posture=Posture.Proactive,
                threshold=1,
                within=timedelta(seconds=3 * HEARTBEAT_SECONDS),
            ),
            actions=[
                ChangeFlowRunState(state=StateType.CRASHED, name="Crashed", message="no heartbeat: its process is gone")
            ],
        )
    )


def _deployed(client: Any) -> list[Deployed]:
    found = []
    for deployment in client.read_deployments():
        if deployment.work_pool_name in (FLOWS_POOL, TRAININGS_POOL):
            flow = client.read_flow(deployment.flow_id).name
            found.append(
                Deployed(f"{flow}/{deployment.name}", deployment.work_pool_name, _schedule(deployment.schedules))
            )
    return sorted(found)


def _schedule(schedules: Any) -> str:
    shown = [
        f"{each.schedule.cron}{'' if each.active else ' (off)'}" for each in schedules if hasattr(each.schedule, "cron")
    ]
    return ", ".join(shown)
