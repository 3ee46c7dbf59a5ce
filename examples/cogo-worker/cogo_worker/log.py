"""The worker's own log: one line an event, on standard error.

Standard output carries the one line that says where the worker listens.
"""

from __future__ import annotations

import sys
import threading
import time
from typing import Any

_LOCK = threading.Lock()


def say(message: str, **fields: Any) -> None:
    """Logs ``message`` with its fields; values cannot forge a line."""
    parts = [time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()), message]
    for name, value in fields.items():
        text = str(value)
        plain = text.isprintable() and not any(char in text for char in ' "=') and text
        parts.append(f"{name}={text if plain else ascii(text)}")
    with _LOCK:
        try:
            print(" ".join(parts), file=sys.stderr, flush=True)
        except (OSError, ValueError):
            # Nobody reads the log any more; the work goes on.
            return
