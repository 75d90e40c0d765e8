"""Hold a class to a contract: exhaustive interleavings, then a race with kills and lost replies,
on one server, on one that fails over, or on a cluster.

    from redis_lab.drill import hold

    def test_my_lock():
        hold(MyLock, as_="lock", seed=7)

The interface that a class must have, and its promises, are in `contracts`; docs/drill.md has an
example.
"""

from __future__ import annotations

from .contracts import KINDS, Promise, Target
from .report import Report
from .run import drill, hold

__all__ = ["KINDS", "Promise", "Report", "Target", "drill", "hold"]
