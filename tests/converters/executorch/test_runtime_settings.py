"""The switches of ExecuTorch's runtime: that each one takes effect, in the version that is installed."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from converters.executorch import converter as executorch
from converters.executorch import runtime_settings
from edgevit.deploy.pass_manager import deploy
from edgevit.export.export_program import export
from edgevit.targets.base import NotSwitchable
from tests.tiny import TinyClassifier, classifier_spec, seeded

# Tries every setting of a file and prints, for each, whether the file was mapped while it was open.
TRY_ALL = """
import json, sys
from pathlib import Path
from converters.executorch.converter import CONVERTER
path = Path(sys.argv[1]).resolve()
file, mapped = CONVERTER.describe(path), []
for settings in CONVERTER.settings:
    CONVERTER.switch(settings)
    session = CONVERTER.open(path.parent, file)
    CONVERTER.confirm(settings, path)
    mapped.append(str(path) in Path("/proc/self/maps").read_text())
    session.close()
print(json.dumps(mapped))
"""
# Asks for what the runtime does not have, and prints what it returns.
REFUSED = """
import ctypes
from converters.executorch import runtime_settings
from edgevit.compat.executorch import BINDINGS
from converters.executorch.converter import CONVERTER
from edgevit.targets.base import NotSwitchable
from edgevit.infra.optional_imports import require
library = ctypes.CDLL(require(BINDINGS, "executorch").__file__)
for option, value in (("workspace_sharing_mode", 7), ("weight_cache_enabled", 1)):
    try:
        runtime_settings._set_option(library, option, value)
    except NotSwitchable as error:
        print(error.message)
CONVERTER.switch(CONVERTER.settings[0])
try:
    runtime_settings.confirm({**CONVERTER.settings[0], "weights_cache": "on"}, runtime_settings.Path("nowhere"))
except NotSwitchable as error:
    print(error.message)
"""


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("a folder with spaces")
    program = export(deploy(seeded(TinyClassifier), classifier_spec())[0], classifier_spec())
    return folder / executorch.CONVERTER.convert(program, executorch.CONVERTER.Options(), folder).entry


def _run(script, *arguments):
    argv = [sys.executable, "-W", "ignore", "-c", script, *map(str, arguments)]
    done = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout.splitlines()


def test_settings_are_all_combinations_and_the_wheels_own_way_comes_first():
    assert len({tuple(row.items()) for row in runtime_settings.SETTINGS}) == 2 * 3 * 2
    assert runtime_settings.SETTINGS[0] == {"weights_cache": "off", "workspace_sharing": "disabled", "load": "mmap"}


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc/self/maps")
def test_every_setting_can_be_switched_and_is_confirmed(model):
    mapped = json.loads(_run(TRY_ALL, model)[-1])
    assert mapped == [row["load"] == "mmap" for row in runtime_settings.SETTINGS]


def test_what_the_runtime_refuses_or_does_not_keep_is_reported():
    sharing, cache, kept = _run(REFUSED)[-3:]
    assert sharing == "the runtime refused workspace_sharing_mode=7 (error 0x12)"
    assert cache.startswith("the runtime refused weight_cache_enabled=1 (error 0x")
    assert kept == "the runtime kept weight_cache_enabled at False, it was asked for True"


def test_other_version_is_not_reached_into(monkeypatch):
    monkeypatch.setattr(runtime_settings, "version", lambda name: "1.5.0")
    with pytest.raises(NotSwitchable, match=r"known for executorch 1\.4\.x, this is 1\.5\.0"):
        runtime_settings.switch(runtime_settings.SETTINGS[0])


def test_missing_symbol_is_named(monkeypatch):
    monkeypatch.setattr(runtime_settings, "_OPTION", "no_such_{}")
    with pytest.raises(NotSwitchable, match="does not export no_such_set_option"):
        runtime_settings.switch(runtime_settings.SETTINGS[0])
