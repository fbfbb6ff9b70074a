"""A model's card: what it is, what it was made of, how good it is, and what it is not for."""

from __future__ import annotations

from effnet.data.shards.manifest import Manifest, load_manifest
from effnet.report.facts import TOP
from effnet.runs import Evaluation, RunFolder, RunResult, RunSpec
from effnet.statistics import wilson_interval

WEAKEST = 3  # classes that a card names


def model_card(
    name: str,
    spec: RunSpec,
    result: RunResult,
    evaluation: Evaluation,
    manifest: Manifest,
    licence: str | None,
    use: str | None = None,
) -> str:
    """Return the card as Markdown; `use` says what goes in and out, where that is not what `effnet.Predictor` takes."""
    use = use or (
        "Input: uint8 RGB images of any size; the central square is cut and resized. Output: classes with\n"
        f"probabilities. Weights: `model.safetensors`, sha256 `{result.weights_sha256}`."
    )
    arch, recipe = spec.architecture, spec.recipe
    counts = ", ".join(f"{split} {number:,}" for split, number in manifest.samples.items())
    shares = sorted(
        (right / samples, manifest.class_names[index], samples)
        for index, (right, samples) in enumerate(zip(evaluation.class_right, evaluation.class_samples, strict=True))
        if samples
    )
    worst = "; ".join(_weak(*each) for each in shares[:WEAKEST])
    top5 = f"\n| top-5 | {evaluation.top5:.2%} |" if spec.num_classes > TOP else ""
    low, high = wilson_interval(evaluation.top1, evaluation.samples)
    notes = "".join(f"\nThe training is short for its recipe: {note}." for note in result.notes)
    sides = ", ".join(f"{side} px {top1:.1%}" for side, top1 in evaluation.resolutions.items())
    start = spec.start.told() if spec.start else f"drawn from seed {spec.seed}"
    if spec.teacher:
        start += f"; {recipe.teacher_weight:g} of the loss were the answers of a teacher ({spec.teacher.told()})"
    place = evaluation.latency.where() if evaluation.latency else "1 thread"
    fold = f", fold {manifest.settings.fold[0]} of {manifest.settings.fold[1]}" if manifest.settings.fold else ""
    device = result.environment.get("device", "an unknown device")
    return f"""\
# {name}

**What.** An image classifier: {result.params:,} parameters, {result.macs:,} multiply-adds at {arch.resolution} pixels,
{spec.num_classes:,} classes ({_some(manifest.class_names)}).
{use}

**Data.** Dataset `{manifest.digest}` ({manifest.settings.source.kind}{fold}): {counts} images. Licence of the images: \
{licence or "not stated (`licence:` in the config)"}.

**Training.** Run `{result.key}`: {result.epochs} epochs of {recipe.optimizer}, batch {recipe.batch_size},
peak learning rate {recipe.learning_rate:g} per 256 images, started from {start}; the epoch with the best top-1 on
minival was kept (epoch {result.best_epoch}, {result.top1:.2%}).
{result.seconds / 3600:.2f} hours on {device}.{notes}

| on the {evaluation.split} split, {evaluation.samples:,} images | |
|---|---|
| top-1 (95 % interval over images) | {evaluation.top1:.2%} ({low:.1%} to {high:.1%}) |{top5}
| loss | {evaluation.loss:.4f} |
| calibration error | {evaluation.calibration_error:.2%} |
| latency, one image, {place} | {evaluation.latency_ms:.2f} ms |
| throughput, batch {evaluation.best_batch} | {evaluation.images_per_second:,.0f} images/s |

**Limits.** It knows these {spec.num_classes:,} classes and answers with one of them whatever it is shown. Lowest
top-1 by class, with 95 % intervals: {worst}. Images of other sides: {sides}.
Scores are of images drawn like those it was trained on; on others they may be lower.
"""


def card_of(run: RunFolder | None, licence: str | None, use: str) -> str | None:
    """Return the card of a run that was evaluated and whose dataset is here; None of any other. See `model_card`."""
    if run is None or (result := run.result()) is None or (evaluation := run.evaluation()) is None:
        return None
    spec, about = run.spec(), run.about()
    manifest = load_manifest(run.store.datasets / spec.dataset)
    if manifest is None:
        return None
    name = f"{about.experiment} {about.name}" if about else spec.architecture.name
    return model_card(name, spec, result, evaluation, manifest, licence, use)


def _weak(share: float, name: str, samples: int) -> str:
    """Say how well a class is known, and how sure that is."""
    low, high = wilson_interval(share, samples)
    return f"{name} {share:.1%} of {samples:,} ({low:.0%} to {high:.0%})"


def _some(names: tuple[str, ...], most: int = 10) -> str:
    shown = ", ".join(names[:most])
    return shown if len(names) <= most else f"{shown}, …"
