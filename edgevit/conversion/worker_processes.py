"""Runs the workers of a conversion side by side, one process per target, and brings back what they made."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

from edgevit.artifacts.artifact import Artifact, load_artifact
from edgevit.conversion.worker_messages import WorkerRequest, WorkerResult
from edgevit.errors import ConversionError
from edgevit.infra import process
from edgevit.log import logger, stage
from edgevit.verification.checks import describe_parity

Keep = Callable[[str, Artifact, str], None]  # target, artifact, SHA-256 of its manifest


def run_workers(
    requests: Iterable[WorkerRequest], folder: Path, *, model: str, timeout_s: float, keep: Keep
) -> dict[str, Artifact]:
    """The artifact of each request, by target; a worker begins as soon as its request comes.

    folder: for the messages. keep: called with each artifact once it is there. Raises the first failure after all
    workers have ended.
    """
    stop = threading.Event()
    running: dict[str, Future[Artifact]] = {}
    with ThreadPoolExecutor(max_workers=os.cpu_count() or 1) as pool:
        try:
            for request in requests:
                running[request.target] = pool.submit(run_worker, request, folder, model, timeout_s, keep, stop)
            failures = [error for error in (future.exception() for future in running.values()) if error is not None]
        except BaseException:
            stop.set()
            raise
    for failure in failures[1:]:
        logger.error("also failed: %s", failure)
    if failures:
        raise failures[0]
    return {target: future.result() for target, future in running.items()}


def run_worker(
    request: WorkerRequest, folder: Path, model: str, timeout_s: float, keep: Keep, stop: threading.Event
) -> Artifact:
    """One worker from start to end; `stop` ends it early. Raises what it raised, or how it died."""
    with stage("convert", model=model, target=request.target) as running:
        result = _result(request, folder, timeout_s, stop)
        artifact = load_artifact(result.artifact)
        manifest = artifact.manifest
        parity = describe_parity(manifest.parity, manifest.compression)
        running.result = f"{artifact.path} {manifest.entry_size_bytes / 1e6:.1f} MB, {parity}"
    keep(request.target, artifact, result.manifest_sha256)
    return artifact


def _result(request: WorkerRequest, folder: Path, timeout_s: float, stop: threading.Event) -> WorkerResult:
    target = request.target
    asked, answered = (folder / f"{target}.{kind}.json" for kind in ("request", "result"))
    request.save(asked)
    argv: list[str | Path] = [
        sys.executable,
        "-W",
        "ignore",
        "-m",
        "edgevit.conversion.worker",
        asked,
        answered,
        str(os.getpid()),
    ]
    try:
        completed = process.run(argv, timeout_s=timeout_s, env=_environment(), stop=stop)
    except process.TimedOut:
        raise ConversionError(
            f"the {target} converter did not end within {timeout_s:g} s and was stopped",
            fix="give it more with --timeout (timeout_s in Python)",
        ) from None
    logger.debug("output of the %s worker:\n%s%s", target, completed.stdout, completed.stderr)
    if not answered.is_file():
        raise ConversionError(
            f"the {target} converter ended with {completed.ending}: {completed.last_error_line or 'no message'}",
            fix="--debug shows its whole output; `edgevit doctor` checks its libraries",
        )
    return WorkerResult.load(answered, target)


def _environment() -> dict[str, str]:
    """The workers share the cores: more threads than cores only make them wait for each other."""
    threads = str(max(1, (os.cpu_count() or 1) // 2))
    return {**os.environ, "OMP_NUM_THREADS": threads, "OMP_WAIT_POLICY": "passive"}
