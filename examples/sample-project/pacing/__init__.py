"""How long to wait, and how often to try."""

from .backoff import Backoff
from .durations import format_duration, parse_duration
from .window import Window

__all__ = ["Backoff", "Window", "format_duration", "parse_duration"]
