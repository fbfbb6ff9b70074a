"""Where orders are carried out: by child processes here, on Ray, or by jobs of a work pool. The result is the same."""

from __future__ import annotations

from collections.abc import Sequence

from effnet.config import Compute, PoolCompute, RayCompute
from effnet.order import Order
from effnet.store import Store
from tasks.compute.here import run_here
from tasks.compute.watch import Watch


def carry_out(orders: Sequence[Order], compute: Compute, store: Store, watch: Watch) -> None:
    """Carry out all orders, largest first; `run_here`, `run_on_ray` and `run_on_pool` say what is raised.

    Args:
        orders: what to do.
        compute: where.
        store: that the runs lie in.
        watch: told what becomes of them.
    """
    if isinstance(compute, PoolCompute):
        from tasks.compute.pool import run_on_pool

        run_on_pool(orders, compute, store, watch)
    elif isinstance(compute, RayCompute):
        from tasks.compute.on_ray import run_on_ray

        run_on_ray(orders, compute, store, watch)
    else:
        run_here(orders, compute, store, watch)
