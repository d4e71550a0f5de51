"""Memory that a thread uses again and again."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np

from hpv.base.buffers import Buffers


def test_buffers_belong_to_their_thread():
    buffers = Buffers()
    first = buffers.get("values", (4, 5), np.float32)
    assert buffers.get("values", (2, 5), np.float32).base is first.base
    assert buffers.get("codes", (4, 5), np.float32).base is not first.base
    assert buffers.get("values", (4, 5), np.uint8).dtype == np.uint8
    others: list[Any] = []
    thread = threading.Thread(target=lambda: others.append(buffers.get("values", (4, 5), np.float32)))
    thread.start()
    thread.join()
    assert not np.shares_memory(others[0], first)
