"""pace.json: how far a training is within its epoch, for those who watch; the journal has whole epochs."""

from __future__ import annotations

import time
from contextlib import suppress

from effnet.errors import EffnetError
from effnet.runs import Pace, RunFolder
from effnet.store import new_file

SECONDS = 2.0  # between two writes, so that they cost next to nothing


class Pacer:
    """Writes a run's pace now and then.

    Args:
        folder: the run's.
        steps_per_epoch: of its training.
        batch_size: images per step over all ranks.
        writes: with False, for all ranks but one, nothing is written.
    """

    def __init__(self, folder: RunFolder, steps_per_epoch: int, batch_size: int, *, writes: bool) -> None:
        self.folder, self.steps_per_epoch, self.batch_size, self.writes = folder, steps_per_epoch, batch_size, writes

    def begin(self, step: int) -> None:
        """Count from here, with so many steps taken since the training began; what was told before holds no longer."""
        self._step, self._at = step, time.monotonic()
        if self.writes:
            with suppress(OSError):
                self.folder.pace_path.unlink(missing_ok=True)

    def tick(self, step: int) -> None:
        """Write the pace if it is due, with so many steps taken."""
        now = time.monotonic()
        if not self.writes or now - self._at < SECONDS:
            return
        rate = (step - self._step) * self.batch_size / (now - self._at)
        pace = Pace(
            epochs=step / self.steps_per_epoch,
            images_per_second=rate,
            images_per_epoch=self.steps_per_epoch * self.batch_size,
        )
        with suppress(OSError, EffnetError), new_file(self.folder.pace_path, flush=False) as temporary:
            temporary.write_text(pace.model_dump_json())  # a full disk is told where something is lost by it
        self._step, self._at = step, now
