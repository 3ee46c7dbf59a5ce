"""A limit on how many events happen in a sliding window of time."""

from collections import deque
from typing import Callable, Deque


class Window:
    """Lets at most ``limit`` events pass in any ``span_s`` seconds."""

    def __init__(self, limit: int, span_s: float, clock: Callable[[], float]) -> None:
        self._limit = limit
        self._span_s = span_s
        self._clock = clock
        self._passed: Deque[float] = deque()

    def try_pass(self) -> bool:
        """True if an event may happen now, which then counts."""
        now = self._clock()
        while self._passed and self._passed[0] <= now - self._span_s:
            self._passed.popleft()
        if len(self._passed) >= self._limit:
            return False
        self._passed.append(now)
        return True

    def wait_s(self) -> float:
        """Seconds until the next event may happen."""
        if len(self._passed) < self._limit:
            return 0.0
        return max(0.0, self._passed[0] + self._span_s - self._clock())
