"""The search for a baseline as a Prefect task. What was tried lies in run folders; nothing else is remembered."""

from __future__ import annotations

import json

from prefect import task
from prefect.cache_policies import NO_CACHE

from effnet.arch.cost import count
from effnet.arch.spec import Architecture
from effnet.config import SearchConfig
from effnet.data.manifest import Manifest
from effnet.errors import DataError
from effnet.search.evolution import Search, Trial, pareto, reward
from effnet.search.space import Space, imagenet_space
from effnet.store import publish
from tasks.training import Unit, Work, make_unit, train_units


@task(task_run_name="search baseline", cache_policy=NO_CACHE)
def search_baseline(work: Work, manifest: Manifest, config: SearchConfig, parent: str | None) -> Architecture:
    """Return the best network found; write it, the history and the Pareto front beside the family's other files."""
    space = imagenet_space() if config.reference == "mnasnet" else Space(work.baseline)
    num_classes = len(manifest.classes)
    low, high = (share * config.target_macs for share in config.window)
    search = Search(
        space,
        lambda arch: low <= count(arch, num_classes).macs <= high,
        seed=work.config.seed,
        method=config.method,
        population=config.population,
        sample=config.sample,
    )
    work.screen.say(
        f"search by {config.method}: {config.trials} of {space.size:.1e} networks, "
        f"{low / 1e6:,.1f} to {high / 1e6:,.1f} M MACs, {config.epochs} epochs each"
    )
    history: list[Trial] = []
    units: list[Unit] = []
    recipe = work.config.recipe.model_copy(update={"epochs": config.epochs})
    while len(history) < config.trials:
        batch = []
        for place, genes in enumerate(search.propose(history, min(config.batch, config.trials - len(history)))):
            number = len(history) + place
            arch = space.build(genes, f"trial_{number}")
            unit = make_unit(work, manifest, f"search {number:03}", arch, recipe, {"trial": float(number)})
            batch.append((genes, unit))
        train_units(work, [unit for _, unit in batch], "search", parent)
        for genes, unit in batch:
            value = reward(_top1(unit), unit.macs, config.target_macs, config.exponent)
            history.append(Trial(len(history), genes, value))
            units.append(unit)
    best = max(history, key=lambda trial: (trial.reward, -trial.number))
    unit = units[best.number]
    arch = space.build(best.genes, f"{work.config.family}_baseline")
    work.screen.say(
        f"baseline found: trial {best.number} of {len(history)}, {unit.params:,} params, {unit.macs:,} MACs, "
        f"minival top-1 {_top1(unit):.1%}, reward {best.reward:.4f}"
    )
    _write(work, config, history, units, arch)
    return arch


def _write(work: Work, config: SearchConfig, history: list[Trial], units: list[Unit], best: Architecture) -> None:
    front = pareto([(float(unit.macs), _top1(unit)) for unit in units])
    trials = [
        {
            "number": trial.number,
            "reward": trial.reward,
            "top1": _top1(unit),
            "macs": unit.macs,
            "params": unit.params,
            "run": unit.folder.key,
        }
        for trial, unit in zip(history, units, strict=True)
    ]
    content = {"config": config.model_dump(mode="json"), "trials": trials, "pareto": front}
    folder = work.store.families / work.key
    folder.mkdir(parents=True, exist_ok=True)
    publish(folder / "search.json", json.dumps(content, indent=2).encode())
    publish(folder / "baseline.json", best.model_dump_json(indent=2).encode() + b"\n")


def _top1(unit: Unit) -> float:
    result = unit.folder.result()
    if result is None:
        raise DataError(f"{unit.folder.path}: its result has gone; run the command again")
    return result.top1
