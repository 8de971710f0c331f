"""Plug-ins are found by their entry points, and those of an earlier interface are named."""

from __future__ import annotations

from importlib.metadata import EntryPoint, EntryPoints

import pytest

from edgevit.errors import UsageError
from edgevit.targets import registry


@pytest.fixture
def installed(monkeypatch):
    """The entry points that an environment has, in place of this one's."""

    def install(*entries: EntryPoint) -> None:
        monkeypatch.setattr(registry, "entry_points", lambda group: EntryPoints(entries).select(group=group))

    registry._found.cache_clear()
    yield install
    registry._found.cache_clear()


def test_plugins_of_an_earlier_interface_are_named_with_the_group_of_today(installed):
    installed(
        EntryPoint("ncnn", "ncnn_target:CONVERTER", "edgevit.converters.v1"),
        EntryPoint("adb", "adb_device:open_device", "edgevit.devices.v1"),
        EntryPoint("tflite", "converters.tflite:CONVERTER", "edgevit.converters.v2"),
    )
    assert registry.retired_plugins() == (
        registry.RetiredPlugin("adb", "adb_device", "edgevit.devices.v1", "edgevit.devices.v2"),
        registry.RetiredPlugin("ncnn", "ncnn_target", "edgevit.converters.v1", "edgevit.converters.v2"),
    )
    assert registry.converter_names() == ("tflite",)


def test_unknown_target_names_the_nearest(installed):
    installed(EntryPoint("tflite", "converters.tflite:CONVERTER", "edgevit.converters.v2"))
    with pytest.raises(UsageError, match="tflite"):
        registry.get_converter("tflight")
