"""Which fold an image is in (`members.folds`): all that is not val is dealt out, and each fold is minival once.

Copies of an image, or the images of a group, are a unit, and go into one fold. The folds are as even as units allow, in
each class: the largest unit first, each goes where its classes have the smallest share so far. Units of one size come
class by class, in the order of their numbers, which depend on bytes or names and the seed; so where each image is a
unit, the counts of a class, and of all images, differ by at most one from fold to fold. That is what scikit-learn's
StratifiedGroupKFold is after as well; but the same images have to give the same dataset, whatever its version and the
order of the images.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence

from effnet.errors import DataError


def deal(labels: Sequence[int], units: Sequence[bytes], draws: Mapping[bytes, float], folds: int) -> dict[bytes, int]:
    """Return the fold of each unit, from 0 on.

    Args:
        labels: of the images.
        units: of the images: what is to stay together.
        draws: number of each unit, in [0, 1).
        folds: how many.
    """
    classes: dict[bytes, Counter[int]] = defaultdict(Counter)
    for label, unit in zip(labels, units, strict=True):
        classes[unit][label] += 1
    whole = Counter(labels)
    filled: list[Counter[int]] = [Counter() for _ in range(folds)]
    sizes = [0] * folds
    dealt: dict[bytes, int] = {}
    for unit in sorted(classes, key=lambda unit: (-classes[unit].total(), min(classes[unit]), draws[unit], unit)):
        counts = classes[unit]

        def filling(fold: int, counts: Counter[int] = counts) -> tuple[float, int]:
            shares = sum(number * filled[fold][label] / whole[label] for label, number in counts.items())
            return shares, sizes[fold]

        chosen = min(range(folds), key=filling)  # of equals the first
        filled[chosen] += counts
        sizes[chosen] += counts.total()
        dealt[unit] = chosen
    return dealt


def check_folds(
    labels: Sequence[int],
    units: Sequence[bytes],
    dealt: Mapping[bytes, int],
    folds: int,
    what: str,
    names: Sequence[str],
) -> None:
    """Raise DataError if a class has no image in one of the folds.

    Args:
        labels, units: of the images, as for `deal`.
        dealt: fold of each unit.
        folds: how many.
        what: units are called.
        names: of the classes.
    """
    found: dict[int, set[bytes]] = {label: set() for label in range(len(names))}
    for label, unit in zip(labels, units, strict=True):
        found[label].add(unit)
    lacking = {label: len(of) for label, of in found.items() if len({dealt[unit] for unit in of}) < folds}
    if not lacking:
        return
    label, number = min(lacking.items(), key=lambda item: item[1])
    others = (
        f", and {len(lacking) - 1:,} more class{'' if len(lacking) == 2 else 'es'} likewise" if len(lacking) > 1 else ""
    )
    most = min(number, folds - 1)
    lower = f"lower it to {most}" if most > 1 else "leave it out"
    raise DataError(
        f"members.folds: {folds}: class '{names[label]}' cannot be in all of them: outside of val it has {number:,} "
        f"{what}{others}; {lower}, or add images"
    )
