"""Stopping long work between two steps."""

import signal
from contextlib import contextmanager


@contextmanager
def interruptible():
    """Yields a list that receives the number of a SIGINT or SIGTERM; a second signal acts as usual."""
    received, previous = [], {}

    def handler(number, frame):
        received.append(number)
        for sig, old in previous.items():
            signal.signal(sig, old)

    for sig in (signal.SIGINT, signal.SIGTERM):
        previous[sig] = signal.signal(sig, handler)
    try:
        yield received
    finally:
        for sig, old in previous.items():
            signal.signal(sig, old)
