"""Asks a person before a stage that costs more than the config's `approve_above`; the flow calls it before the stage.

A deployed flow run is suspended: its process ends, the Resume button of its page starts it again, and finished work is
found by its keys. Elsewhere the person at the terminal is asked; where there is none, the command ends.
"""

from __future__ import annotations

import dataclasses
import getpass
import json
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from uuid import UUID

from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import (
    FlowRunFilter,
    FlowRunFilterDeploymentId,
    FlowRunFilterState,
    FlowRunFilterStateName,
)
from prefect.flow_runs import suspend_flow_run
from prefect.input import RunInput
from prefect.runtime import deployment, flow_run
from prefect.states import Cancelled
from pydantic import Field

from effnet.approval import Approval, Forecast, above, amount, is_approved, keep_approval, read_approvals
from effnet.arch.scaling import PAPER, Coefficients
from effnet.arch.spec import Architecture
from effnet.config import ApproveAbove, StudyConfig, given_coefficients
from effnet.errors import ApprovalError, ConfigError, RunFailedError
from effnet.family import plan_members
from effnet.forecast.findings import ForecastFindings
from effnet.plan import Speed, Work, stated_speed, together
from effnet.runs import read_value
from effnet.search.findings import FIT, SEARCH, STUDY, FitFindings, SearchFindings, StudyFindings
from effnet.stages import Stage
from tasks.build import Build, Training
from tasks.trainings import epochs_done


class GoOn(RunInput):
    """What the Resume button of a suspended flow run asks for."""

    approved_by: str = Field(default="", max_length=200, description="your name, for the family's record")


def ask_before(build: Build, stage: Stage, coefficients: Coefficients | None = None) -> None:
    """Ask before the search, the study or the grid, unless it is done.

    Args:
        build: the family.
        stage: that begins next.
        coefficients: α, β, γ, where they are known by then.

    Raises:
        ApprovalError: if nobody is there to ask, or said no.
    """
    limit, config = build.config.approve_above, build.config
    if limit is None or _is_done(build, stage):
        return
    if stage is Stage.STUDY and config.study is None:
        config = config.model_copy(update={"study": StudyConfig()})
    wanted = dataclasses.replace(build, config=config)
    for each in wanted.prices(coefficients):
        if each.stage == stage.planned_as:
            known = coefficients or given_coefficients(config) or PAPER
            members = plan_members(build.baseline, config, known, build.num_classes)
            networks = [build.baseline, *(member.architecture for member in members)]
            _ask(build, limit, stage, each.trainings, each.work, networks)


def ask_before_trainings(
    build: Build, stage: Stage, trainings: Iterable[Training], forecast: ForecastFindings | None = None
) -> None:
    """Ask before what is left of a stage's trainings; where members are foretold, say what each of them gains.

    Raises:
        ApprovalError: if nobody is there to ask, or said no.
    """
    if (limit := build.config.approve_above) is None:
        return
    left = list({each.folder.key: each for each in trainings if each.folder.result() is None}.values())
    if left:
        rest = together(each.work(each.epochs - epochs_done(each), build.manifest.samples["train"]) for each in left)
        networks = [each.spec.architecture for each in left]
        _ask(build, limit, stage, len(left), rest, networks, _gains(build, left, forecast) if forecast else {})


def _gains(build: Build, left: Iterable[Training], findings: ForecastFindings) -> dict[str, tuple[str, Work]]:
    """Return by member what its trainings that are left are expected to gain, and their work."""
    parts: dict[str, list[Work]] = {}
    for each in left:
        work = each.work(each.epochs - epochs_done(each), build.manifest.samples["train"])
        parts.setdefault(each.about.network, []).append(work)
    found = {}
    for name, works in parts.items():
        outlook = findings.foretold.of(name)
        told = f"no forecast ({outlook.why})" if outlook and outlook.why else "no forecast"
        if outlook and outlook.top1 is not None:
            told = f"top-1 {outlook.told()}"
            if outlook.gain:
                told = f"{outlook.gain.short()} points"
        found[name] = told, together(works)
    return found


def _is_done(build: Build, stage: Stage) -> bool:
    """Say whether a stage of this build was done, and its runs are still there."""
    runs: Iterable[str] = ()
    if stage is Stage.FIT and (grid := read_value(FitFindings, build.folder / FIT)):
        runs = grid.runs
    elif stage is Stage.STUDY and (study := read_value(StudyFindings, build.folder / STUDY)):
        runs = [run for networks in study.baselines.values() for network in networks for run in network.runs]
    elif stage is Stage.SEARCH and (search := read_value(SearchFindings, build.folder / SEARCH)):
        runs = [trial.run for trial in (*search.trials, *search.control)]
    return bool(runs) and all((build.store.runs / run).is_dir() for run in runs)


def _ask(
    build: Build,
    limit: ApproveAbove,
    stage: Stage,
    trainings: int,
    wanted: Work,
    networks: Sequence[Architecture],
    gains: Mapping[str, tuple[str, Work]] | None = None,
) -> None:
    """Have a stage approved, if its forecast is above the limit and it was not approved before."""
    speed = stated_speed(build.config.compute, limit.device, build.base, "approve_above.device")
    speed = speed or _measured(build, networks)
    hours = speed.hours(wanted)
    name = stage.planned_as
    unit = "GPU-hours" if speed.memory_bytes else "hours"
    forecast = Forecast(name, trainings, hours, unit, speed.dollars(hours), speed.device, speed.price_from)
    if limit.dollars is not None and forecast.dollars is None:
        raise ConfigError(
            f"approve_above.dollars: nobody knows what {speed.device} costs; name a device with a price "
            "(approve_above.device), or give gpu_hours"
        )
    exceeded, before = above(forecast, limit), read_approvals(build.folder)
    if not exceeded or is_approved(forecast, before):
        return
    line = f"{forecast.told} on {forecast.device}, above approve_above ({exceeded})"
    told = [
        f"{member}: {gain} for {amount(speed.hours(work))} {unit}" for member, (gain, work) in (gains or {}).items()
    ]
    for each in told:
        build.screen.say(each)
    how, by = _answered(build, forecast, line, exceeded, f"approve-{name}-{len(before)}", told)
    keep_approval(
        build.folder,
        Approval(
            stage=name,
            trainings=trainings,
            gpu_hours=hours,
            dollars=forecast.dollars,
            device=forecast.device,
            how=how,
            by=by,
            at=datetime.now(UTC).isoformat(timespec="seconds"),
        ),
    )
    build.screen.say(f"{line}: approved{f' by {by}' if by else ''} ({how})")


def _answered(
    build: Build, forecast: Forecast, line: str, exceeded: str, key: str, told: Sequence[str]
) -> tuple[str, str]:
    """Return where the stage was approved, and by whom if they said so."""
    if build.approved:
        return "in advance, --approve", _user()
    if deployment.id:
        return "on Prefect's page", _resumed(build, forecast, line, exceeded, key, told)
    if not build.screen.can_ask:
        raise ApprovalError(
            f"{line}: nothing of it is begun; run the same command with --approve to go on, or raise approve_above"
        )
    build.screen.warn(line)
    if not build.screen.ask(f"Begin {forecast.stage}?"):
        raise ApprovalError(f"{forecast.stage}: not approved; what was done before is kept")
    return "at the terminal", _user()


def _resumed(build: Build, forecast: Forecast, line: str, exceeded: str, key: str, told: Sequence[str]) -> str:
    """Suspend the flow run until somebody resumes it; in the run that was resumed, return who they say they are."""
    text = _card(build.config.family, forecast, exceeded, told)
    build.screen.note(f"approve {forecast.stage}", f"{line}; Resume on this run's page lets it begin", text)
    _end_older_questions()
    build.tracker.pause(build.key)  # now: no heartbeat should follow the suspension, or the run would count as dead
    given = suspend_flow_run(wait_for_input=GoOn.with_initial_data(description=text), key=key)
    build.tracker.resume(build.key)
    return given.approved_by.strip()


def _end_older_questions() -> None:
    """Cancel the suspended runs of this deployment with the same parameters: a schedule would pile them up."""
    with get_client(sync_client=True) as client:
        own = client.read_flow_run(UUID(flow_run.id)).parameters  # as they were given
        suspended = FlowRunFilter(
            deployment_id=FlowRunFilterDeploymentId(any_=[UUID(deployment.id)]),
            state=FlowRunFilterState(name=FlowRunFilterStateName(any_=["Suspended"])),
        )
        for each in client.read_flow_runs(flow_run_filter=suspended):
            if each.parameters == own and str(each.id) != flow_run.id:
                why = f"a newer run, {flow_run.name}, asks the same: {flow_run.ui_url or flow_run.id}"
                client.set_flow_run_state(each.id, Cancelled(message=why), force=True)


def _card(family: str, forecast: Forecast, exceeded: str, told: Sequence[str] = ()) -> str:
    """Return the forecast as Markdown, for the dialog of the Resume button and an artifact.

    Args:
        family: its name.
        forecast: what the stage will cost.
        exceeded: the limits that it exceeds.
        told: what members are expected to gain, a line of each.
    """
    expected = f"Expected (95 %):\n\n{''.join(f'* {line}{chr(10)}' for line in told)}\n" if told else ""
    rows = [(forecast.unit, amount(forecast.hours))]
    if forecast.dollars is not None:
        rows.append(("dollars", f"{forecast.dollars:,.2f}"))
    table = "\n".join(f"| {name} | {value} |" for name, value in rows)
    source = f" Price: {forecast.price_from}." if forecast.price_from else ""
    return (
        f"**{family}: begin {forecast.stage}?** The forecast is above {exceeded}, the most that begins unasked.\n\n"
        f"| trainings left | {forecast.trainings:,} |\n|---|---:|\n{table}\n\n"
        f"On {forecast.device}.{source}\n\n{expected}"
        "*Resume*, then *Submit*, begins it. *Cancel* ends the run; what is done is kept."
    )


def _measured(build: Build, networks: Sequence[Architecture]) -> Speed:
    """Return this machine's speed, measured in a child: it gives the memory of a GPU back when it ends."""
    asked = {
        "networks": [network.model_dump(mode="json") for network in networks],
        "num_classes": build.num_classes,
        "recipe": build.recipe.model_dump(mode="json"),
        "threads": build.config.compute.threads,
    }
    command = [sys.executable, "-P", "-m", "effnet.train.speed"]
    done = subprocess.run(command, input=json.dumps(asked), capture_output=True, text=True, check=False)
    if done.returncode:
        lines = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
        raise RunFailedError(f"approve_above: this machine could not be measured: {lines[-1]}")
    return Speed(**json.loads(done.stdout))


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container's user has no name
        return ""
