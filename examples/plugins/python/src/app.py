"""An executor plugin in Python: every part of the contract on one page.

Handles `code/build-test`, a role the contract has a report for, and
`docs/render`, one it has none for. README.md lists what the payload steers.
"""

import html
import json
import re
import time
import traceback
from typing import NoReturn, Optional
from urllib.parse import urlsplit

from componentize_py_types import Err, Ok
from wit_world import exports
from wit_world.exports.plugin import Descriptor, Kind
from wit_world.imports import contract, host, outgoing_handler, poll, streams, types
from wit_world.imports.contract import Outcome, Task

CHUNK_BYTES = 64 * 1024
MAX_DEPTH = 100


class Plugin(exports.Plugin):
    # Constants only: the host calls it once, with nothing to reach.
    def describe(self) -> Descriptor:
        return Descriptor(
            name="python-example",
            version="0.1.0",
            kind=Kind.REAL,
            handles=["code/build-test", "docs/render"],
            config_keys=["GREETING", "FETCH_ORIGIN"],
            egress=["config:FETCH_ORIGIN"],
        )


class Executor(exports.Executor):
    def execute(self, task: Task) -> Outcome:
        try:
            return run(task)
        except Err:
            raise  # a failure of the contract
        except Exception:
            # Without this line a bug would show as a trap and nothing else.
            host.log(host.Level.ERROR, traceback.format_exc())
            raise


def run(task: Task) -> Outcome:
    started = time.monotonic()
    payload = read(task.payload)
    greeting = f"{host.config('GREETING') or 'Hello'}, {payload.get('greet', 'world')}!"
    host.log(host.Level.INFO, f"{greeting} (attempt {task.attempt} of {task.max_attempts})")
    host.progress(0.1, "greeted")
    # Before anything can fail: what a failed attempt spent counts too.
    host.report_usage(host.Usage(cost_micro_usd=0, tokens=len(greeting.split()), model=None))

    if payload.get("fail") == "retryable":
        retryable("example_retryable", "fails, as the payload asked", retry_after_ms=1000)
    if payload.get("fail") == "permanent":
        permanent("example_permanent", "fails for good, as the payload asked")
    if "fetch" in payload:
        store("fetched.bin", "application/octet-stream", fetch(payload["fetch"]))
        host.progress(0.6, "fetched")
    give_way()

    route = f"{task.route.service}/{task.route.role}"
    if route == "code/build-test":
        return build_test(payload, greeting, started)
    if route == "docs/render":
        return render(payload, greeting)
    permanent("role_unsupported", f"does not handle {route}")


def build_test(payload: dict, greeting: str, started: float) -> Outcome:
    failures = payload.get("failures", 0)
    text = f"{greeting}\n{failures} of 3 tests failed\n"
    report_url = store("report.txt", "text/plain; charset=utf-8", text.encode())
    # Failing tests are a finished task with a negative verdict, not a failure.
    report = contract.BuildTestReport(
        passed=failures == 0,
        tests=3,
        failures=failures,
        duration_ms=int((time.monotonic() - started) * 1000),
        report_url=report_url,
    )
    return Outcome(contract.Report_BuildTest(report), snippet=greeting, url=None, attributes=[])


def render(payload: dict, greeting: str) -> Outcome:
    title = html.escape(payload.get("title", greeting))
    text = html.escape(payload.get("text", ""))
    page = f'<!doctype html><meta charset="utf-8"><title>{title}</title><h1>{title}</h1><p>{text}</p>\n'
    body = page.encode()
    url = store("index.html", "text/html; charset=utf-8", body)
    report = json.dumps({"page_url": url, "bytes": len(body)})
    return Outcome(contract.Report_Custom(report), snippet=greeting, url=url, attributes=[])


def read(text: str) -> dict:
    """The payload comes from whoever put the task on the bus: parsed once, here."""
    try:
        # The parser would trap on what is nested deeper than its stack.
        payload = json.loads(text) if depth(text) <= MAX_DEPTH else None
    except ValueError:
        payload = None
    if not isinstance(payload, dict):
        permanent("payload_invalid", "the payload is not a JSON object")
    for key in ("greet", "fail", "fetch", "title", "text"):
        if not isinstance(payload.get(key, ""), str):
            permanent("payload_invalid", f"`{key}` is not a string")
    failures = payload.get("failures", 0)
    if type(failures) is not int or not 0 <= failures <= 3:
        permanent("payload_invalid", "`failures` is not a number from 0 to 3")
    return payload


def depth(text: str) -> int:
    """How deep arrays and objects are nested."""
    deepest = deep = 0
    for bracket in re.findall(r"[\[{\]}]", re.sub(r'"[^"\\]*(?:\\.[^"\\]*)*"', "", text)):
        deep += 1 if bracket in "[{" else -1
        deepest = max(deepest, deep)
    return deepest


def fetch(url: str) -> bytes:
    host.log(host.Level.DEBUG, f"fetching {url}")
    try:
        with outgoing_handler.handle(get(url), None) as future:
            wait(future.subscribe())
            answer = future.get()
            if not (isinstance(answer, Ok) and isinstance(answer.value, Ok)):
                raise answer.value if isinstance(answer, Ok) else answer
            with answer.value.value as response:
                check_status(url, response)
                return body(response)
    except Err as error:
        if isinstance(error.value, contract.Failure):
            raise
        # What is left are the error codes of wasi:http and of its streams.
        if isinstance(error.value, types.ErrorCode_HttpRequestDenied):
            permanent("egress_denied", f"{url}: grant it in `allow` and in FETCH_ORIGIN")
        retryable("fetch_failed", f"{url}: {error.value}")


def get(url: str) -> types.OutgoingRequest:
    try:
        parts = urlsplit(url)
    except ValueError as error:
        permanent("payload_invalid", f"`fetch` is no URL: {url}: {error}")
    if parts.scheme not in ("http", "https") or not parts.netloc:
        permanent("payload_invalid", f"`fetch` is not an http or https URL: {url}")
    request = types.OutgoingRequest(types.Fields())
    try:
        request.set_scheme(types.Scheme_Https() if parts.scheme == "https" else types.Scheme_Http())
        request.set_authority(parts.netloc)
        request.set_path_with_query((parts.path or "/") + (f"?{parts.query}" if parts.query else ""))
    except Err:
        permanent("payload_invalid", f"`fetch` is no usable URL: {url}")
    return request


def check_status(url: str, response: types.IncomingResponse) -> None:
    status = response.status()
    if status == 429 or status >= 500:
        with response.headers() as headers:
            seconds = b"".join(headers.get("retry-after"))
        after = int(seconds) * 1000 if seconds.isdigit() and len(seconds) < 10 else None
        retryable("fetch_refused", f"{url}: status {status}", retry_after_ms=after)
    if not 200 <= status < 300:
        permanent("fetch_refused", f"{url}: status {status}")


def body(response: types.IncomingResponse) -> bytes:
    read = bytearray()
    with response.consume() as incoming, incoming.stream() as stream:
        while True:
            wait(stream.subscribe())
            try:
                read += stream.read(CHUNK_BYTES)
            except Err as error:
                if isinstance(error.value, streams.StreamError_Closed):
                    return bytes(read)
                raise


def wait(ready: poll.Pollable) -> None:
    """Until `ready` is, or the host asks to stop."""
    with ready, host.stop_signal() as stopped:
        poll.poll([ready, stopped])
    give_way()


def give_way() -> None:
    if host.stop() is not None:
        raise Err(contract.Failure_Interrupted())


def store(path: str, content_type: str, body: bytes) -> str:
    try:
        return host.store_artifact(path, content_type, body)
    except Err as error:
        if isinstance(error.value, host.ArtifactError_Unavailable):
            retryable("artifacts_unavailable", error.value.value)
        permanent("artifact_refused", f"{path}: {error.value}")


def retryable(code: str, message: str, retry_after_ms: Optional[int] = None) -> NoReturn:
    raise Err(contract.Failure_Retryable(contract.Problem(code, message, retry_after_ms)))


def permanent(code: str, message: str) -> NoReturn:
    raise Err(contract.Failure_Permanent(contract.Problem(code, message, None)))
