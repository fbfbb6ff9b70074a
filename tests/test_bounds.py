"""What pip may install beside effnet: versions that are known to break it are not among it."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

from tasks.servers.doctor import CEILINGS, FLOORS

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
REQUIRED = {requirement.name: requirement for requirement in map(Requirement, PROJECT["dependencies"])}
BAD = [
    ("fastapi", "0.151.0", "Prefect 3.8's server does not start"),
    ("sqlalchemy", "2.1.0", "Prefect 3.8's scheduler: Can't evaluate bulk DML statement, every minute"),
    ("sqlalchemy", "2.1.9", "the same"),
    ("prefect", "3.8.7", "CVE-2026-7722: requests without a login"),
    ("mlflow", "3.16.0", "CVE-2026-2614: path traversal"),
    ("torch", "2.9.1", "CVE-2026-24747: code in checkpoints"),
    ("boto3", "1.34.0", "no conditional writes"),
]


@pytest.mark.parametrize(("package", "version", "why"), BAD)
def test_known_bad_version_is_excluded(package: str, version: str, why: str) -> None:
    assert not REQUIRED[package].specifier.contains(version, prereleases=True), why


def test_doctor_and_the_package_agree() -> None:
    for name, (floor, _) in FLOORS.items():
        (stated,) = (Version(each.version) for each in REQUIRED[name].specifier if each.operator == ">=")
        assert stated == Version(floor), name
    stated_tops = {
        name: [each.version for each in requirement.specifier if each.operator == "<"]
        for name, requirement in REQUIRED.items()
    }
    assert {name: [top] for name, (top, _) in CEILINGS.items()} == {
        name: tops for name, tops in stated_tops.items() if tops and Version(tops[0]).release[1:]
    }  # a next major version is a matter of pip alone


def test_versions_that_were_tested_are_allowed() -> None:
    lines = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if "==" in line]
    tested = {canonicalize_name(each.name): each for each in map(Requirement, lines)}
    for name, requirement in REQUIRED.items():
        (pin,) = tested[canonicalize_name(name)].specifier
        assert requirement.specifier.contains(pin.version), name
