"""How a failure is answered: the caller's matter (4xx) or worth a retry (5xx).

Every module raises one of these two; only ``server`` turns them into HTTP.
"""

from __future__ import annotations

import errno
from typing import Any, Dict, Optional


class Problem(Exception):
    """A failure with its HTTP status, a stable code and words for people."""

    def __init__(
        self,
        status: int,
        code: str,
        message: str,
        hint: str = "",
        retry_after_s: Optional[int] = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.message = message
        self.hint = hint
        self.retry_after_s = retry_after_s

    def body(self) -> Dict[str, Any]:
        """The JSON body of the answer."""
        error = {"code": self.code, "message": self.message}
        if self.hint:
            error["hint"] = self.hint
        return {"error": error}


class Refused(Problem):
    """The request cannot be carried out; asking again will not help."""

    def __init__(self, code: str, message: str, hint: str = "", status: int = 422) -> None:
        super().__init__(status, code, message, hint)


class Unavailable(Problem):
    """A fault of the moment: a download, a full disk, a worker that stops."""

    def __init__(
        self,
        code: str,
        message: str,
        hint: str = "",
        retry_after_s: int = 10,
        status: int = 503,
    ) -> None:
        super().__init__(status, code, message, hint, retry_after_s)


def from_os_error(error: OSError, doing: str) -> Problem:
    """Sorts a fault of the file system by who can do something about it."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return Unavailable(
            "disk_full",
            f"no space left while {doing}",
            "free space under the worker's --state-dir",
            retry_after_s=60,
        )
    return Unavailable("io_error", f"{error.strerror or error} while {doing}")
