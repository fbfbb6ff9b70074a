"""Members in MLflow's registry, as a Prefect task."""

from __future__ import annotations

import time
from collections.abc import Mapping

from prefect import task
from prefect.cache_policies import NO_CACHE

from effnet.report.costs import REGISTER, add_time
from effnet.report.words import counted
from tasks.build import Build, Training
from tasks.events import champions_changed
from tasks.records.registry import Registered, Registry

_CHAMPIONS = "is the champion of its model", "are the champions of their models"


@task(task_run_name="register members", cache_policy=NO_CACHE)
def register_members(
    build: Build, trainings: Mapping[str, Training], best: str | None, because: str = ""
) -> list[Registered]:
    """Register every evaluated member that is not registered yet, and let the gate decide on the champions.

    Args:
        build: the family.
        trainings: by member, the one whose model is the member's.
        best: the member that the build says to use, if it says so.
        because: why.
    """
    config, screen = build.config, build.screen
    registry = Registry(
        build.tracker, build.store, build.manifest, config.family, build.key, config.licence, screen.say, screen.warn
    )
    began = time.monotonic()
    found = [each for name, training in trainings.items() if (each := registry.register(name, training.folder))]
    if found:
        new = sum(each.new for each in found)
        champions = sum(each.champion for each in found)
        models, versions = counted(len(found), "model"), counted(new, "new version")
        screen.say(f"registry: {models}, {versions}; {counted(champions, *_CHAMPIONS)}")
    champions_changed(build, found)
    if found and best and (uri := registry.mark_best(found, best, because)):
        screen.say(f"registry: {uri} is the member to use")
    if any(each.new for each in found):
        add_time(build.folder, REGISTER, time.monotonic() - began)
    return found
