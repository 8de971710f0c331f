"""doctor: what works is really imported, and what is missing comes with its command."""

from __future__ import annotations

import json

import pytest

from edgevit import environment
from edgevit.cli.main import main
from edgevit.environment import doctor
from edgevit.targets.registry import RetiredPlugin, converter_names


def _by_name(findings, kind):
    return {finding.name: finding for finding in findings if finding.kind == kind}


@pytest.fixture
def only(monkeypatch):
    """Looks at these targets alone: each one's libraries are imported in a process of their own, some seconds."""
    return lambda *names: monkeypatch.setattr(environment, "converter_names", lambda: names)


def test_installed_targets_work_and_say_where_they_run():
    targets = _by_name(doctor(), "target")
    assert set(targets) == set(converter_names())
    assert all(target.works for target in targets.values()), targets
    detail = targets["executorch"].detail
    assert "executorch 1." in detail
    assert "also under the settings of phones: weights_cache off/on, workspace_sharing disabled/per_model/" in detail


def test_settings_of_phones_that_cannot_be_switched_are_reported(monkeypatch, only):
    only("executorch")
    refused = environment.process.Completed(0, "the switches are known for executorch 1.4.x, this is 1.5.0\n", "")
    monkeypatch.setattr(environment.process, "run", lambda *args, **kwargs: refused)
    detail = _by_name(doctor(), "target")["executorch"].detail
    assert detail.endswith(
        "not under the settings of phones: the switches are known for executorch 1.4.x, this is 1.5.0"
    )


def test_missing_library_names_the_version_wanted_and_the_command(monkeypatch, only):
    only("coreml")
    real = environment.version
    monkeypatch.setattr(environment, "version", lambda name: None if name == "coremltools" else real(name))
    finding = _by_name(doctor(), "target")["coreml"]
    assert not finding.works
    assert finding.detail == "missing: coremltools<9.1,>=9.0"
    assert finding.fix == 'pip install "edgevit[coreml]"'


def test_wrong_version_is_missing_too(monkeypatch, only):
    only("tflite")
    real = environment.version
    monkeypatch.setattr(environment, "version", lambda name: "0.1" if name == "ai-edge-litert" else real(name))
    assert _by_name(doctor(), "target")["tflite"].detail == "missing: ai-edge-litert<2.4,>=2.3 (has 0.1)"


def test_broken_library_is_found_by_importing_it(monkeypatch, only):
    only("tflite")
    broken = environment.process.Completed(1, "", "Traceback\nImportError: libfoo.so not found\n")
    monkeypatch.setattr(environment.process, "run", lambda *args, **kwargs: broken)
    finding = _by_name(doctor(), "target")["tflite"]
    assert not finding.works
    assert "libfoo.so not found" in finding.detail


def test_absent_tool_comes_with_its_package(monkeypatch, only):
    only()
    monkeypatch.setattr(environment.shutil, "which", lambda program: None)
    tool = _by_name(doctor(), "tool")["chromium"]
    assert (tool.works, tool.fix) == (False, "apt-get install chromium")


def test_plugin_of_an_earlier_interface_is_named_with_the_group_of_today(monkeypatch, only):
    only()
    retired = RetiredPlugin("ncnn", "edgevit-ncnn", "edgevit.converters.v1", "edgevit.converters.v2")
    monkeypatch.setattr(environment, "retired_plugins", lambda: (retired,))
    finding = _by_name(doctor(), "plug-in")["ncnn"]
    assert not finding.works
    assert finding.detail == "edgevit-ncnn registers it under edgevit.converters.v1, which is no longer read"
    assert finding.fix == "update edgevit-ncnn, or register the plug-in under edgevit.converters.v2"


def test_command_prints_json(capsys, only):
    only("tflite")
    with pytest.raises(SystemExit) as ended:
        main(["doctor", "--json"])
    assert ended.value.code == 0
    document = json.loads(capsys.readouterr().out)
    assert {"kind", "name", "works", "detail", "fix"} == set(document[0])
