"""scikit-learn's digits, read without the package."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from sklearn.datasets import load_digits

from effnet.data.sources import digits
from effnet.errors import DataError


def test_images_and_labels_are_those_that_scikit_learn_gives() -> None:
    images, labels = digits._load()
    theirs = load_digits()
    assert len(labels) == digits.NUM_IMAGES
    assert (images.dtype, images.tobytes()) == (theirs.images.dtype, theirs.images.tobytes())
    assert np.array_equal(labels, theirs.target)


def test_the_package_is_read_and_not_run() -> None:
    code = (
        "import sys; from effnet.data.sources.digits import Digits; "
        "source = Digits(8); source.read(source.entries()[0]); sys.exit('sklearn' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_file_that_is_missing_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Spec:
        submodule_search_locations = (str(tmp_path),)

    monkeypatch.setattr(digits, "find_spec", lambda _name: Spec)
    with pytest.raises(DataError, match=r"digits\.csv\.gz: not there; run: pip install --force-reinstall scikit-learn"):
        digits._load.__wrapped__()
    monkeypatch.setattr(digits, "find_spec", lambda _name: None)
    with pytest.raises(DataError, match="digits come with scikit-learn"):
        digits._load.__wrapped__()
