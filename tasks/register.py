"""Members in MLflow's registry, as a Prefect task."""

from __future__ import annotations

from collections.abc import Sequence

from prefect import task
from prefect.cache_policies import NO_CACHE

from effnet.data.shards.manifest import Manifest
from tasks.records.registry import Registered, Registry
from tasks.trainings import Unit, Work


@task(task_run_name="register members", cache_policy=NO_CACHE)
def register_members(work: Work, manifest: Manifest, units: Sequence[Unit]) -> list[Registered]:
    """Register every evaluated member that is not registered yet, and let the gate decide on the champions."""
    config, screen = work.config, work.screen
    registry = Registry(
        work.tracker, work.store, manifest, config.family, work.key, config.licence, screen.say, screen.warn
    )
    found = [each for unit in units if (each := registry.register(unit.name, unit.folder))]
    if found:
        new = sum(each.new for each in found)
        champions = sum(each.champion for each in found)
        screen.say(f"registry: {len(found)} models, {new} new; champion among these: {champions} of {len(found)}")
    return found
