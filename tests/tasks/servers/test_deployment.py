"""Deployments that an earlier version made."""

from __future__ import annotations

from types import SimpleNamespace

from tasks.servers.deployment import _without_old


def test_deployments_of_an_old_name_are_removed() -> None:
    removed: list[int] = []
    client = SimpleNamespace(delete_deployment=removed.append)
    there = [SimpleNamespace(id=1, name="by-hand"), SimpleNamespace(id=2, name="digits")]
    assert [each.name for each in _without_old(client, there)] == ["digits"]
    assert removed == [1]
