"""What the operator chose, and the limits every run is held to.

Plain values, made once by ``cli``; nothing here does any work.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import FrozenSet, Optional, Tuple

MIB = 1024 * 1024


@dataclass(frozen=True)
class Limits:
    """Bounds of one run. Sizes in bytes, times in seconds."""

    body_bytes: int = MIB
    archive_bytes: int = 128 * MIB
    source_bytes: int = 512 * MIB
    source_entries: int = 50_000
    # What the host keeps as an artifact.
    edits_bytes: int = 4 * MIB
    edits_count: int = 2_000
    # Of all files together that edits write, and of each file that they read.
    edited_bytes: int = 32 * MIB
    log_bytes: int = 4 * MIB
    fetch_s: float = 120.0
    install_s: float = 600.0
    test_s: float = 300.0
    memory_bytes: int = 4096 * MIB
    file_bytes: int = 1024 * MIB
    processes: int = 256
    open_files: int = 1024
    max_runs: int = 2
    keep_runs: int = 1000


@dataclass(frozen=True)
class SandboxLimits:
    """Bounds of one sandbox run, named as in a request. ``ms`` is milliseconds."""

    cpu_ms: int
    wall_ms: int
    memory_mb: int
    disk_mb: int
    processes: int
    # Of standard output and of standard error, each.
    log_bytes: int


# What a request gets that asks for nothing, and the most that one may ask for.
# The answer has to stay below 1 MiB with every byte of output escaped.
SANDBOX_DEFAULTS = SandboxLimits(10_000, 30_000, 512, 64, 64, 64 * 1024)
SANDBOX_MOST = SandboxLimits(120_000, 120_000, 4096, 1024, 256, 64 * 1024)


class SandboxMode(Enum):
    """What the operator allows ``/run/sandbox``."""

    # In namespaces, or not at all.
    ISOLATED = "isolated"
    # Resource limits alone: the operator's explicit word.
    LIMITS_ONLY = "limits-only"
    OFF = "off"


@dataclass(frozen=True)
class Settings:
    """The worker's configuration after parsing and checking."""

    host: str
    port: int
    state_dir: Path
    # Resolved, so that a comparison of resolved paths is enough.
    roots: Tuple[Path, ...]
    public_url: Optional[str] = None
    token: Optional[str] = None
    # None: any host; otherwise downloads and git go to these alone.
    hosts: Optional[FrozenSet[str]] = None
    sandbox: SandboxMode = SandboxMode.ISOLATED
    limits: Limits = field(default_factory=Limits)

    @property
    def runs_dir(self) -> Path:
        """Finished runs: the record for replays, and the reports."""
        return self.state_dir / "runs"

    @property
    def work_dir(self) -> Path:
        """Trees of runs in progress; emptied at every start."""
        return self.state_dir / "work"

    @property
    def tools_dir(self) -> Path:
        """The worker's own virtual environments."""
        return self.state_dir / "tools"

    @property
    def pip_cache_dir(self) -> Path:
        """Wheels that pip has downloaded or built."""
        return self.state_dir / "pip-cache"
