"""When a stage is asked for, and what is remembered of the answer."""

from __future__ import annotations

from pathlib import Path

import pytest

from effnet.approval import Approval, Forecast, above, amount, is_approved, keep_approval, read_approvals
from effnet.arch.spec import Architecture
from effnet.config import ApproveAbove, FamilyConfig
from effnet.errors import ApprovalError, ConfigError
from effnet.family import build_key

FORECAST = Forecast("members", 8, 120.0, "GPU-hours", 298.8, "A100", "a list")


def approval(**fields: object) -> Approval:
    given = {"stage": "members", "trainings": 8, "gpu_hours": 120.0, "dollars": 298.8, "device": "A100"}
    return Approval.model_validate({**given, "how": "at the terminal", "by": "ada", "at": "2026-11-27", **fields})


@pytest.mark.parametrize(
    ("limit", "told"),
    [
        ({"gpu_hours": 100.0}, "100 GPU-hours"),
        ({"gpu_hours": 120.0}, ""),
        ({"dollars": 200.0}, "200 dollars"),
        ({"gpu_hours": 100.0, "dollars": 200.0}, "100 GPU-hours and 200 dollars"),
        ({"gpu_hours": 200.0, "dollars": 200.0}, "200 dollars"),
    ],
)
def test_the_limit_that_is_exceeded_is_named(limit: dict[str, float], told: str) -> None:
    assert above(FORECAST, ApproveAbove(**limit)) == told


def test_an_approval_is_of_a_stage_on_a_device_at_a_price() -> None:
    assert is_approved(FORECAST, [approval()])
    assert is_approved(FORECAST._replace(hours=130.0), [approval()])  # measured again
    assert is_approved(FORECAST._replace(dollars=100.0), [approval()])  # less is left
    assert not is_approved(FORECAST._replace(hours=200.0), [approval()])
    for other in ({"stage": "fit"}, {"device": "L4"}, {"dollars": 200.0}, {"dollars": None}):
        assert not is_approved(FORECAST, [approval(**other)])
    assert not is_approved(FORECAST, [])


def test_approvals_are_kept_in_order(tmp_path: Path) -> None:
    assert read_approvals(tmp_path) == ()
    keep_approval(tmp_path, approval(stage="fit"))
    keep_approval(tmp_path, approval())
    assert [each.stage for each in read_approvals(tmp_path)] == ["fit", "members"]


def test_a_limit_leaves_the_familys_key_as_it_was(config: FamilyConfig, baseline: Architecture) -> None:
    limited = config.model_copy(update={"approve_above": ApproveAbove(gpu_hours=1.0)})
    assert build_key(limited, baseline, "d") == build_key(config, baseline, "d")


def test_a_limit_without_an_amount_is_refused() -> None:
    with pytest.raises(ConfigError, match="give gpu_hours or dollars"):
        ApproveAbove.parse({"device": "l4"}, "config")
    assert ApprovalError.exit_code == 77


@pytest.mark.parametrize(("hours", "told"), [(1234.4, "1,234"), (12.0, "12"), (3.44, "3.4"), (0.0123, "0.012")])
def test_amounts_are_short(hours: float, told: str) -> None:
    assert amount(hours) == told
