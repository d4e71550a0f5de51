"""From a torch model to an activation store. The only part of hpv's library that knows torch."""

from hpv.capturing.estimate import CapturePlan
from hpv.capturing.running import Captured, capture

__all__ = ["CapturePlan", "Captured", "capture"]
