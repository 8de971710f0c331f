"""`doctor`: what works on this machine, what is missing, and the command that fixes it."""

from __future__ import annotations

import dataclasses
import functools
import platform
import shutil
import sys
from dataclasses import dataclass
from importlib.metadata import requires
from typing import TYPE_CHECKING

from edgevit.errors import DeviceError
from edgevit.infra import process
from edgevit.infra.optional_imports import version
from edgevit.log import stage
from edgevit.targets.registry import RetiredPlugin, converter_names, device_schemes, get_converter, retired_plugins
from edgevit.verification.phone_settings import has_settings

if TYPE_CHECKING:
    from edgevit.targets.base import Converter

_IMPORT_TIMEOUT_S = 180


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing looked at. `fix` is a command, or "" where nothing is wrong."""

    kind: str  # "python", "target", "plug-in", "extra", "device", "tool"
    name: str
    works: bool
    detail: str
    fix: str = ""


def doctor() -> list[Finding]:
    """Look at Python, the targets (their libraries are really imported), plug-ins, the extras, devices and tools."""
    with stage("doctor", importing="every target") as running:
        findings = [_python()]
        findings += [_target(name) for name in converter_names()]
        findings += [_retired(plugin) for plugin in retired_plugins()]
        findings += [_extra(extra, use) for extra, use in _EXTRAS.items()]
        findings += [Finding("device", scheme, True, platform.platform()) for scheme in device_schemes()]
        findings += [_tool(*row) for row in _TOOLS]
        running.result = f"{sum(finding.works for finding in findings)} of {len(findings)} work"
    return findings


def to_json(findings: list[Finding]) -> list[dict[str, object]]:
    """Findings as plain data."""
    return [dataclasses.asdict(finding) for finding in findings]


_EXTRAS = {
    "train": "edgevit train",
    "quantize": "edgevit quantize and edgevit qat",
    "demo": "the bundled digits and photographs",
    "report": "edgevit report",
}
# What for, the programs that serve (any one), and how Debian and Ubuntu call them.
_TOOLS = (
    ("C++ compiler, for aotinductor and tests of native code", ("g++", "clang++"), "apt-get install g++"),
    ("headless browser, for tests of the report", ("chromium", "google-chrome", "chrome"), "apt-get install chromium"),
    ("git, for the commit in manifests", ("git",), "apt-get install git"),
)


def _python() -> Finding:
    found = platform.python_version()
    works = (3, 11) <= sys.version_info[:2] < (3, 13)
    return Finding("python", found, works, sys.executable, "" if works else "install Python 3.11 and run make setup")


def _target(name: str) -> Finding:
    converter = get_converter(name)
    missing = _missing(converter.extra)
    fix = f'pip install "edgevit[{converter.extra}]"'
    if missing:
        return Finding("target", name, False, "missing: " + ", ".join(missing), fix)
    try:
        script = "import " + ", ".join(converter.runtime_modules)
        if has_settings(converter):
            script += f"\nfrom edgevit.verification.settings_worker import unswitchable\nprint(unswitchable({name!r}))"
        completed = process.run([sys.executable, "-W", "ignore", "-c", script], timeout_s=_IMPORT_TIMEOUT_S)
    except DeviceError as error:
        return Finding("target", name, False, error.message, fix)
    if completed.returncode:
        return Finding("target", name, False, f"import fails: {completed.last_error_line}", fix)
    versions = ", ".join(f"{package} {version(package)}" for package in converter.packages)
    detail = f"{versions}; {converter.runs_here() or 'runs here'}"
    if has_settings(converter):
        detail += f"; {_settings(converter, completed.last_line)}"
    return Finding("target", name, True, detail)


def _settings(converter: Converter, unswitchable: str) -> str:
    """Which settings of phones files are run under here, or why not."""
    if unswitchable:
        return f"not under the settings of phones: {unswitchable}"
    names = {name: dict.fromkeys(row[name] for row in converter.settings) for name in converter.settings[0]}
    shown = ", ".join(f"{name} {'/'.join(values)}" for name, values in names.items())
    return f"also under the settings of phones: {shown}"


def _retired(plugin: RetiredPlugin) -> Finding:
    detail = f"{plugin.distribution} registers it under {plugin.group}, which is no longer read"
    fix = f"update {plugin.distribution}, or register the plug-in under {plugin.replacement}"
    return Finding("plug-in", plugin.name, False, detail, fix)


def _extra(extra: str, use: str) -> Finding:
    missing = _missing(extra)
    fix = f'pip install "edgevit[{extra}]"' if missing else ""
    return Finding(
        "extra", extra, not missing, f"for {use}" + (f"; missing: {', '.join(missing)}" if missing else ""), fix
    )


def _missing(extra: str) -> list[str]:
    """Requirements of one of edgevit's extras that the environment does not meet: "coremltools==9.0 (has 8.3)"."""
    lacking = []
    for requirement in _requirements():
        if requirement.marker is None or not requirement.marker.evaluate({"extra": extra}):
            continue
        found = version(requirement.name)
        if found is None:
            lacking.append(f"{requirement.name}{requirement.specifier}")
        elif requirement.specifier and not requirement.specifier.contains(found, prereleases=True):
            lacking.append(f"{requirement.name}{requirement.specifier} (has {found})")
    return lacking


@functools.cache
def _requirements() -> list:
    from packaging.requirements import Requirement

    return [Requirement(text) for text in requires("edgevit") or []]


def _tool(use: str, programs: tuple[str, ...], fix: str) -> Finding:
    found = next((path for path in map(shutil.which, programs) if path), None)
    return Finding("tool", programs[0], found is not None, f"{use}: {found or 'not found'}", "" if found else fix)
