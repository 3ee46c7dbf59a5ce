"""Downloads one URL to a file or into memory, within limits.

Never follows a redirect without checking where it leads, never talks to
link-local addresses (metadata services live there), never uses a proxy.
"""

from __future__ import annotations

import http.client
import ipaddress
import socket
import ssl
import threading
import time
from typing import BinaryIO, Tuple
from urllib.parse import SplitResult, urljoin

from . import __version__
from .errors import Problem, Refused, Unavailable
from .request import check_http_url
from .settings import Settings

MAX_REDIRECTS = 5
IDLE_S = 20.0
# Inside fd00::/8, which is otherwise ordinary private space.
METADATA_V6 = ipaddress.ip_address("fd00:ec2::254")


def check_address(text: str, field: str) -> None:
    """Refuses addresses that no source lives at: link-local, multicast, unspecified."""
    address = ipaddress.ip_address(text.partition("%")[0])
    mapped = getattr(address, "ipv4_mapped", None)
    address = mapped or address
    if (
        address.is_link_local
        or address.is_multicast
        or address.is_unspecified
        or address == METADATA_V6
    ):
        raise Refused(
            "address_not_allowed",
            f"{field} leads to {address}, which this worker never contacts",
            status=403,
        )


def check_resolved(host: str, field: str) -> None:
    """Resolves a host and checks all its addresses, before anything connects to it."""
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except socket.gaierror as error:
        raise Unavailable(
            "host_unresolved", f"{field}: the host {host} does not resolve: {error.strerror}"
        ) from error
    for *_, address in found:
        check_address(str(address[0]), field)


def download(
    url: str, into: BinaryIO, *, field: str, max_bytes: int, timeout_s: float, settings: Settings
) -> int:
    """Writes the body at ``url`` to ``into`` and returns its size in bytes."""
    deadline = time.monotonic() + timeout_s
    for _ in range(MAX_REDIRECTS + 1):
        parts = check_http_url(url, field, settings)
        try:
            location, size = _one_request(parts, into, field, max_bytes, deadline)
        except Problem:
            raise
        except ssl.SSLCertVerificationError as error:
            raise Refused(
                "bad_certificate", f"{field}: {parts.hostname}: {error.verify_message}"
            ) from error
        except (OSError, http.client.HTTPException) as error:
            if time.monotonic() >= deadline:
                error = TimeoutError(f"not finished after {timeout_s:.0f} s")
            raise Unavailable(
                "download_failed", f"{field}: {parts.hostname}: {error or type(error).__name__}"
            ) from error
        if not location:
            return size
        following = urljoin(url, location)
        if url.startswith("https:") and not following.startswith("https:"):
            raise Refused("bad_redirect", f"{field} redirects from https to something else")
        url = following
    raise Refused("bad_redirect", f"{field} redirects more than {MAX_REDIRECTS} times")


def _one_request(
    parts: SplitResult, into: BinaryIO, field: str, max_bytes: int, deadline: float
) -> Tuple[str, int]:
    """The ``Location`` of a redirect, or an empty one and the size of the body."""
    host = parts.hostname or ""
    connection: http.client.HTTPConnection
    if parts.scheme == "https":
        context = ssl.create_default_context()
        connection = http.client.HTTPSConnection(
            host, parts.port, timeout=IDLE_S, context=context
        )
    else:
        connection = http.client.HTTPConnection(host, parts.port, timeout=IDLE_S)
    check_resolved(host, field)
    try:
        connection.connect()
        # Once more on the connection itself: its own look-up could answer otherwise.
        check_address(connection.sock.getpeername()[0], field)
        # Against a peer that sends a byte now and then: no single read times out.
        cutter = threading.Timer(max(0.0, deadline - time.monotonic()), _cut, [connection.sock])
        cutter.daemon = True
        cutter.start()
        try:
            path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
            agent = f"cogo-worker/{__version__}"
            connection.request("GET", path, headers={"User-Agent": agent, "Accept": "*/*"})
            response = connection.getresponse()
            if response.status in (301, 302, 303, 307, 308):
                return response.getheader("Location") or "", 0
            _check_status(response.status, response.getheader("Retry-After"), field)
            return "", _copy(response, into, field, max_bytes, deadline)
        finally:
            cutter.cancel()
    finally:
        connection.close()


def _check_status(status: int, retry_after: "str | None", field: str) -> None:
    if status == 200:
        return
    if status in (408, 425, 429) or status >= 500:
        wait_s = int(retry_after) if (retry_after or "").isdigit() else 10
        raise Unavailable(
            "download_failed", f"{field} answered {status}", retry_after_s=min(wait_s, 900)
        )
    raise Refused("download_refused", f"{field} answered {status}")


def _copy(
    response: http.client.HTTPResponse,
    into: BinaryIO,
    field: str,
    max_bytes: int,
    deadline: float,
) -> int:
    too_large = Refused(
        "download_too_large", f"{field} is larger than {max_bytes} bytes", status=422
    )
    if response.length is not None and response.length > max_bytes:
        raise too_large
    size = 0
    while True:
        if time.monotonic() >= deadline:
            raise TimeoutError
        chunk = response.read1(65536)
        if not chunk:
            # read1 reports a body that was cut short as its end.
            if response.length:
                raise http.client.IncompleteRead(b"", response.length)
            return size
        size += len(chunk)
        if size > max_bytes:
            raise too_large
        into.write(chunk)


def _cut(sock: socket.socket) -> None:
    try:
        sock.shutdown(socket.SHUT_RDWR)
    except OSError:
        return
