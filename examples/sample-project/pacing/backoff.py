"""Retry schedules: each wait twice as long as the last, up to a cap."""

import random
from typing import List, Optional


class Backoff:
    """Exponential backoff; with a source of randomness, with full jitter."""

    def __init__(self, base_s: float, cap_s: float, rng: Optional[random.Random] = None) -> None:
        if not 0 < base_s <= cap_s:
            raise ValueError("needs 0 < base_s <= cap_s")
        self._base_s = base_s
        self._cap_s = cap_s
        self._rng = rng

    def delay(self, attempt: int) -> float:
        """Seconds to wait after ``attempt``, counted from 1."""
        if attempt < 1:
            raise ValueError("attempts are counted from 1")
        # The cap is reached long before the exponent could overflow a float.
        ceiling = min(self._cap_s, self._base_s * 2.0 ** min(attempt - 1, 60))
        return ceiling if self._rng is None else self._rng.uniform(0, ceiling)

    def delays(self, attempts: int) -> List[float]:
        """The waits after each of the first ``attempts``."""
        return [self.delay(attempt) for attempt in range(1, attempts + 1)]
