"""Which images a run's network is right about: a bit per image, kept beside its scores, so that two can be compared.

hits.json is written by the evaluation, in the order of the dataset's index; it is valid for that dataset and those
weights alone.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from pydantic import field_validator

from effnet.errors import DataError
from effnet.runs import RunFolder, read_value
from effnet.statistics import Hits
from effnet.store import publish
from effnet.values import Value


class SplitHits(Value):
    """A bit for each image of a split."""

    samples: int
    bits: str  # base64 of the packed bits, the first image in the highest bit

    @field_validator("bits")
    @classmethod
    def _check(cls, bits: str) -> str:
        try:
            base64.b64decode(bits, validate=True)
        except binascii.Error as error:
            raise ValueError(f"not base64 ({error})") from error
        return bits

    @classmethod
    def of(cls, hits: Hits) -> SplitHits:
        """Return (images,) truth values in packed form."""
        return cls(samples=len(hits), bits=base64.b64encode(np.packbits(hits).tobytes()).decode())

    def unpacked(self) -> Hits:
        """Return the truth values, (images,)."""
        packed = np.frombuffer(base64.b64decode(self.bits), np.uint8)
        if len(packed) != -(-self.samples // 8):
            raise DataError(f"{len(packed)} bytes of hits for {self.samples} images")
        return np.unpackbits(packed, count=self.samples).astype(bool)


class KeptHits(Value):
    """The content of hits.json."""

    dataset: str  # digest; the order is that of its index
    weights_sha256: str
    splits: dict[str, SplitHits]  # "minival", "val"


def read_hits(path: Path, dataset: str, weights_sha256: str, split: str) -> Hits | None:
    """Return the hits that a file keeps, (images,); None if it keeps none of this dataset, weights and split."""
    kept = read_value(KeptHits, path)
    if kept is None or (kept.dataset, kept.weights_sha256) != (dataset, weights_sha256) or split not in kept.splits:
        return None
    try:
        return kept.splits[split].unpacked()
    except DataError as error:
        raise DataError(f"{path}: {error}; remove the file and run again") from error


def keep_hits(path: Path, dataset: str, weights_sha256: str, split: str, hits: Hits) -> None:
    """Add a split's hits to a file, dropping those of another dataset or of other weights."""
    kept = read_value(KeptHits, path)
    same = kept is not None and (kept.dataset, kept.weights_sha256) == (dataset, weights_sha256)
    splits = {**(kept.splits if kept and same else {}), split: SplitHits.of(hits)}
    content = KeptHits(dataset=dataset, weights_sha256=weights_sha256, splits=splits)
    publish(path, content.model_dump_json(indent=2).encode())


def hits_of(folders: Iterable[RunFolder], split: str) -> Hits:
    """Return the hits of several trainings on a split of their dataset, (seeds, images).

    Raises:
        DataError: if one of them keeps none.
    """
    found = []
    for folder in folders:
        if (hits := run_hits(folder, split)) is None:
            raise DataError(f"{folder.hits_path}: missing; run the command again")
        found.append(hits)
    return np.stack(found)


def out_of_fold(folds: Iterable[Iterable[RunFolder]]) -> Hits:
    """Return the hits on minival of trainings on folds, (seeds, images), one fold's images after the other's.

    Each image is in one fold's minival, so each is judged by a network that did not learn from it.

    Args:
        folds: of each, its trainings by seed.

    Raises:
        DataError: if one of them keeps none.
    """
    return np.concatenate([hits_of(trainings, "minival") for trainings in folds], axis=1)


def compared_hits(folds: Sequence[Sequence[RunFolder]]) -> Hits:
    """Return the hits by which members of a family are compared, (seeds, images): on val; with folds, out of fold.

    Args:
        folds: a member's trainings on each fold, by seed; without folds, all of them in one.
    """
    return out_of_fold(folds) if len(folds) > 1 else hits_of(folds[0], "val")


def run_hits(folder: RunFolder, split: str) -> Hits | None:
    """Return a run's hits on a split of its dataset, (images,); None if it is not finished or kept none yet."""
    result = folder.result()
    return read_hits(folder.hits_path, folder.spec().dataset, result.weights_sha256, split) if result else None
