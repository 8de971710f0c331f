"""`python -m benchmarks.coreml_conformance`: runs coremltools' own op tests with predictions served by our interpreter.

The wheel ships the tests and their expected values; `benchmarks.coreml_conformance_plugin` makes them believe in macOS.
Counted is every test that calls predict, except programs with recurrent, random or list operations; none is left out
because it fails, and a program that cannot be loaded is a failure. Files about recurrent cells and random numbers are
not run. The result is results/coreml-conformance.json. It says how well the interpreter agrees with the values that
Apple expects; it does not say what a device computes.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

from benchmarks.coreml_conformance_plugin import EXCLUDED_FILES, EXCLUDED_OPS
from edgevit.infra.files import write_json
from edgevit.infra.optional_imports import require
from edgevit.infra.provenance import provenance
from edgevit.mil.interpreter import MODES

RESULT = Path(__file__).parent / "results" / "coreml-conformance.json"
MIN_SHARE = 0.97
MIN_TESTS = 1390
_TESTS = "converters/mil/mil/ops/tests"
_ROOT = Path(__file__).resolve().parent.parent
# Why tests fail without a fault of ours, found by reading them; the first pattern that fits the failure names it.
_KNOWN = (
    ("", "neural network of the older format", "the test makes a neural network, not an ML Program"),
    (
        "test_ios17_invalid_indices",
        "outside|DID NOT RAISE",
        "an index out of range that is not validated is undefined: the test expects some other result, we refuse it, "
        "and count negative ones from the end as iOS16 does",
    ),
    (
        "TestCropResize::test_builder_to_backend_smoke",
        "Not equal to tolerance",
        "a box that ends before it starts: the whole image is expected, which no documentation says",
    ),
)


def main() -> None:
    """Run the tests, write the result, print the totals; exit 1 below MIN_SHARE or MIN_TESTS."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--mode", choices=sorted(MODES), default="declared")
    parser.add_argument("--select", default="", help="pytest's -k: only tests whose name matches; writes nothing")
    arguments = parser.parse_args()
    started = time.monotonic()
    lines = run(arguments.processes, arguments.mode, arguments.select)
    result = summary(lines, arguments.mode)
    result["duration_s"] = round(time.monotonic() - started)
    print(json.dumps({key: value for key, value in result.items() if key != "failures"}, indent=2))
    if arguments.select:
        for failure in result["failures"]:
            print(failure["test"], failure["cause"], sep="\n    ")
        return
    write_json(RESULT, result)
    sys.exit(result["share"] < MIN_SHARE or result["counted"] < MIN_TESTS)


def run(processes: int, mode: str, select: str) -> list[dict[str, Any]]:
    """The plugin's lines of all processes; each runs its share of the tests."""
    (package,) = require("coremltools", "coreml").__path__
    command = [sys.executable, "-m", "pytest", "-q", "--tb=no", "-W", "ignore", "-p", "no:cacheprovider"]
    command += ["-c", os.devnull]  # else pytest takes the configuration of the project whose .venv holds the wheel
    command += ["-p", "benchmarks.coreml_conformance_plugin", "-k", select, str(Path(package) / _TESTS)]
    with tempfile.TemporaryDirectory() as folder:
        logs = [Path(folder) / f"{index}.jsonl" for index in range(processes)]
        running = []
        for index, log in enumerate(logs):
            environment = os.environ | {
                "CONFORMANCE_LOG": str(log),
                "CONFORMANCE_MODE": mode,
                "CONFORMANCE_SHARD": f"{index}/{processes}",
                "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",
                "PYMIL_TEST_TARGETS": "mlprogram",  # the suite's own switch: no models of the older format
                "PYTHONPATH": str(_ROOT),
            }
            # In its own folder, so that no configuration of ours applies to the foreign tests.
            running.append(
                subprocess.Popen([*command, "--rootdir", folder], cwd=folder, env=environment, stdout=sys.stderr)
            )
        for process in running:
            process.wait()
        return [json.loads(line) for log in logs if log.exists() for line in log.read_text().splitlines()]


def summary(lines: list[dict[str, Any]], mode: str) -> dict[str, Any]:
    """Totals by file and every failure with its cause."""
    counted = [line for line in lines if line["predicted"] and not line["excluded"]]
    failed = sorted((line for line in counted if line["outcome"] == "failed"), key=lambda line: line["test"])
    passed = sum(line["outcome"] == "passed" for line in counted)
    files = {_file(line) for line in counted}
    return {
        "schema": "edgevit.conformance",
        "suite": _TESTS,
        "mode": mode,
        "counted": len(counted),
        "passed": passed,
        "failed": len(failed),
        "share": round(passed / len(counted), 4) if counted else 0.0,
        "expected_failures": len(counted) - passed - len(failed),  # marked xfail by the suite itself
        "without_prediction": sum(not line["predicted"] for line in lines),
        "failed_before_prediction": sorted(
            line["test"] for line in lines if line["outcome"] == "failed" and not line["predicted"]
        ),
        "excluded": {
            "files": list(EXCLUDED_FILES),
            "operations": list(EXCLUDED_OPS),
            "tests": sum(line["excluded"] for line in lines),
        },
        "files": {
            name: dict(sorted(Counter(line["outcome"] for line in counted if _file(line) == name).items()))
            for name in sorted(files)
        },
        "causes": dict(Counter(_cause(line) for line in failed).most_common()),
        "failures": [{"test": line["test"], "cause": _cause(line)} for line in failed],
        "provenance": provenance(("coremltools", "pytest", "scipy")),
    }


def _file(line: dict[str, Any]) -> str:
    return line["test"].split("::")[0].rsplit("ops/tests/", 1)[-1]


def _cause(line: dict[str, Any]) -> str:
    """What is known about the failure, else its message without the names of temporary files."""
    for test, message, reason in _KNOWN:
        if re.search(test, line["test"]) and re.search(message, line["cause"]):
            return reason
    return re.sub(r"\S*/tmp\w*\.mlpackage", "PACKAGE", line["cause"])


if __name__ == "__main__":
    main()
