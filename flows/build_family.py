"""The family-building flow: the order of the stages, nothing else."""

from __future__ import annotations

from pathlib import Path

from prefect import flow

from effnet.config import load_baseline, load_config
from effnet.family import FamilyResult, build_key, plan_members
from effnet.store import Store
from tasks.screen import Screen
from tasks.stages import (
    Work,
    evaluate_members,
    fit_coefficients,
    shard_dataset,
    train_members,
    write_report,
)
from tasks.tracking import Tracker


@flow(name="build_family", flow_run_name="{config}")
def build_family(config: str, store: str | None = None) -> FamilyResult:
    """Build a compound-scaled family from a configuration file.

    Args:
        config: path of the family's YAML file.
        store: folder for everything the family leaves behind, instead of the one that the config names.
    """
    settings = load_config(Path(config))
    root = Store(Path(store or settings.store).absolute())
    screen = Screen()
    tracker = Tracker(
        f"sqlite:///{root.root / 'mlflow.db'}", settings.family, root.root / "artifacts" / settings.family, screen.warn
    )
    baseline = load_baseline(settings, Path(config))
    work = Work(settings, baseline, root, tracker, screen)
    try:
        manifest = shard_dataset(work)
        key = build_key(settings, baseline, manifest.digest)
        parent = tracker.open_run(
            key, f"{settings.family}-{key[:6]}", settings.model_dump(mode="json"), {"effnet.kind": "family"}
        )
        coefficients = fit_coefficients(work, manifest, parent)
        members = plan_members(baseline, settings, coefficients, len(manifest.classes))
        reused = train_members(work, manifest, members, parent)
        result = evaluate_members(work, manifest, members, coefficients, reused)
        files = write_report(work, key, result)
        if not all(reused.values()):
            best = max(member.top1 for member in result.members)
            tracker.close(parent, {"best_val_top1": best, **coefficients._asdict()}, files, "FINISHED")
    finally:
        screen.settle()
    return result
