"""Finds targets and devices by their entry points; nothing in edgevit names a converter."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from importlib.metadata import EntryPoint, entry_points
from typing import TYPE_CHECKING, Any

from edgevit.errors import unknown_name

if TYPE_CHECKING:
    from edgevit.targets.base import Converter

CONVERTERS = "edgevit.converters.v2"
DEVICES = "edgevit.devices.v2"
# Groups of earlier plug-in interfaces, no longer read -> the group that took their place.
_RETIRED = {"edgevit.converters.v1": CONVERTERS, "edgevit.devices.v1": DEVICES}


@dataclass(frozen=True, slots=True)
class RetiredPlugin:
    """A plug-in written for an earlier interface: registered under `group`, which nothing reads any more."""

    name: str
    distribution: str
    group: str
    replacement: str  # the group that is read today


@functools.cache
def _found(group: str) -> dict[str, EntryPoint]:
    return {entry.name: entry for entry in entry_points(group=group)}


def _load(group: str, kind: str, name: str) -> Any:
    try:
        return _found(group)[name].load()
    except KeyError:
        raise unknown_name(kind, name, _found(group)) from None


def converter_names() -> tuple[str, ...]:
    """Names of all installed targets, sorted."""
    return tuple(sorted(_found(CONVERTERS)))


def get_converter(name: str) -> Converter:
    """The converter of target `name`; UsageError with the nearest names if there is none."""
    converter: Converter = _load(CONVERTERS, "target", name)
    return converter


def converter_package(name: str) -> str:
    """Top-level package of the code of target `name`."""
    return _found(CONVERTERS)[name].module.partition(".")[0]


def device_schemes() -> tuple[str, ...]:
    """Schemes of all installed devices ("host"), sorted."""
    return tuple(sorted(_found(DEVICES)))


def retired_plugins() -> tuple[RetiredPlugin, ...]:
    """Plug-ins that are installed but never found, because their group is an earlier interface's; sorted by name."""
    found = [
        RetiredPlugin(entry.name, entry.dist.name if entry.dist else entry.module, group, replacement)
        for group, replacement in _RETIRED.items()
        for entry in entry_points(group=group)
    ]
    return tuple(sorted(found, key=lambda plugin: (plugin.name, plugin.group)))


def get_device(address: str) -> Any:
    """The device behind an address: its scheme ("adb" of "adb:SERIAL") picks the plug-in, the rest names one."""
    scheme, _, rest = address.partition(":")
    return _load(DEVICES, "device", scheme)(rest)
