"""Predictions for image files, which threads read while the network works. What cannot be read is a row, too."""

from __future__ import annotations

import itertools
from collections.abc import Generator, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from effnet.config import ImagePolicy
from effnet.data.images.decode import center_box, decode_box, resize_into
from effnet.data.images.intake import BadImage, prepare
from effnet.errors import DataError
from effnet.evaluation.file_prediction import FilePrediction
from effnet.evaluation.predictor import Predictor
from effnet.files import read_regular, reason

BATCH = 64
_POLICY = ImagePolicy()


def predict_files(
    predictor: Predictor, paths: Iterable[Path], *, top: int = 1, batch: int = BATCH, threads: int = 1
) -> Generator[FilePrediction]:
    """Yield a prediction for every file, in their order, a batch at a time; the next batch is read meanwhile.

    Args:
        predictor: the model.
        paths: of images, in every format that training takes; they are turned upright as EXIF says.
        top: classes to tell, at most.
        batch: images that go through the network together.
        threads: that read and decode.
    """
    side, padding = predictor.network.architecture.resolution, predictor.crop_padding

    def read(path: Path) -> NDArray[np.uint8] | str:
        try:
            return network_input(path, side, padding)
        except DataError as error:
            return str(error)

    pool = ThreadPoolExecutor(threads)
    try:
        left = iter(paths)
        ahead = [(path, pool.submit(read, path)) for path in itertools.islice(left, batch)]
        while ahead:
            now, ahead = ahead, [(path, pool.submit(read, path)) for path in itertools.islice(left, batch)]
            found = [(path, future.result()) for path, future in now]
            pixels = [image for _, image in found if not isinstance(image, str)]
            rows = iter(predictor.judge(np.stack(pixels)) if pixels else ())
            for path, image in found:
                if isinstance(image, str):
                    yield FilePrediction(path, (), (), image)
                    continue
                labels, shares = predictor.best(next(rows), top)
                yield FilePrediction(path, tuple(labels), tuple(shares))
    finally:  # at once, if nobody wants the rest
        pool.shutdown(wait=False, cancel_futures=True)


def network_input(path: Path, side: int, crop_padding: int | None) -> NDArray[np.uint8]:
    """Return what a network sees of an image file: its central square, uint8 (side, side, 3).

    Raises:
        DataError: if it cannot be read, with the reason alone.
    """
    try:
        image = prepare(read_regular(path), _POLICY, turn=True)
    except BadImage as error:
        raise DataError(str(error)) from error
    except OSError as error:
        raise DataError(reason(error)) from error
    box = center_box(image.width, image.height, side, crop_padding)
    pixels = np.empty((side, side, 3), np.uint8)
    cut_out = np.ascontiguousarray(decode_box(image.image, (image.width, image.height), box, "broken"))
    resize_into(torch.from_numpy(pixels), cut_out)
    return pixels
