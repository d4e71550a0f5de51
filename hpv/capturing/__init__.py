"""From a torch model to an activation store, or to scores at once. The only part of hpv's library that knows torch."""

import importlib.util

if importlib.util.find_spec("torch") is None:
    raise ModuleNotFoundError(
        "hpv.capture and hpv.Monitor need torch, which is not installed: pip install 'hpv[torch]'."
    )

from hpv.capturing.estimate import CapturePlan
from hpv.capturing.monitoring import BatchScores, Monitor
from hpv.capturing.storing import Captured, capture

__all__ = ["BatchScores", "CapturePlan", "Captured", "Monitor", "capture"]
