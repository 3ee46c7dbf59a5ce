"""Durations as people write them: ``1h30m``, ``250ms``, ``90s``."""

import re

UNITS = {"d": 86400.0, "h": 3600.0, "m": 60.0, "s": 1.0, "ms": 0.001}

_PART = re.compile(r"(\d+(?:\.\d+)?)(ms|d|h|m|s)")


def parse_duration(text: str) -> float:
    """Seconds in ``text``; raises ValueError for anything that is not a duration."""
    seconds, position = 0.0, 0
    for part in _PART.finditer(text):
        if part.start() != position:
            break
        seconds += float(part[1]) * UNITS[part[2]]
        position = part.end()
    if position == 0 or position != len(text):
        raise ValueError(f"not a duration: {text!r}")
    return seconds


def format_duration(seconds: float) -> str:
    """The shortest text that ``parse_duration`` reads as ``seconds``, to the millisecond."""
    left = round(seconds * 1000)
    if left < 0:
        raise ValueError("a duration is never negative")
    parts = []
    for unit, size in UNITS.items():
        count, left = divmod(left, round(size * 1000))
        if count:
            parts.append(f"{count}{unit}")
    return "".join(parts) or "0s"
