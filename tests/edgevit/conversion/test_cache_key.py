"""Every ingredient of an artifact changes its key."""

from __future__ import annotations

import platform
import sys

import pytest

from edgevit.conversion import cache_key
from edgevit.conversion.cache_key import code_digest, conversion_key

ARGUMENTS = {"model": "van_b0", "precision": "fp32", "labels": ["a", "b"], "options": {"author": ""}, "plain": False}


@pytest.fixture
def plugin(tmp_path, monkeypatch):
    """A converter's package "keyed_plugin", which every target comes from."""
    package = tmp_path / "site" / "keyed_plugin"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("")
    (package / "table.json").write_text("{}")
    monkeypatch.syspath_prepend(package.parent)
    monkeypatch.setattr(cache_key, "converter_package", lambda target: "keyed_plugin")
    monkeypatch.setattr(cache_key, "_code_in_memory", {})
    return package


@pytest.fixture
def weights(tmp_path, plugin):
    path = tmp_path / "w.pt"
    path.write_bytes(b"weights")
    return path


def test_same_words_give_the_same_key(weights):
    key = conversion_key("tflite", ARGUMENTS, [weights])
    assert len(key) == 64
    assert conversion_key("tflite", dict(reversed(ARGUMENTS.items())), [weights]) == key


@pytest.mark.parametrize(
    "change",
    [
        {"model": "van_b1"},
        {"precision": "fp16"},
        {"labels": ["b", "a"]},
        {"options": {"author": "A"}},
        {"plain": True},
        {"replace_head": True},
    ],
)
def test_each_argument_counts(weights, change):
    assert conversion_key("tflite", ARGUMENTS | change, [weights]) != conversion_key("tflite", ARGUMENTS, [weights])


def test_target_files_and_their_bytes_count(weights, tmp_path):
    image = tmp_path / "p.png"
    image.write_bytes(b"image")
    key = conversion_key("tflite", ARGUMENTS, [weights, image])
    others = [
        conversion_key("coreml", ARGUMENTS, [weights, image]),
        conversion_key("tflite", ARGUMENTS, [weights]),
        conversion_key("tflite", ARGUMENTS, [image, weights]),
    ]
    for path in (weights, image):
        path.write_bytes(path.read_bytes() + b"!")
        others.append(conversion_key("tflite", ARGUMENTS, [weights, image]))
    weights.rename(tmp_path / "renamed.pt")  # the manifest names the file
    others.append(conversion_key("tflite", ARGUMENTS, [tmp_path / "renamed.pt", image]))
    assert len({key, *others}) == 1 + len(others)


def test_python_platform_and_distributions_count(weights, plugin, monkeypatch):
    keys = [conversion_key("tflite", ARGUMENTS, [weights])]
    (plugin.parent / "torch-99.0.dist-info").mkdir()
    keys.append(conversion_key("tflite", ARGUMENTS, [weights]))
    monkeypatch.setattr(sys, "version", "4.0")
    keys.append(conversion_key("tflite", ARGUMENTS, [weights]))
    monkeypatch.setattr(platform, "platform", lambda: "Other-1")
    keys.append(conversion_key("tflite", ARGUMENTS, [weights]))
    assert len(set(keys)) == 4
    assert None not in keys


@pytest.mark.parametrize("name", ["__init__.py", "table.json", "new.py"])
def test_code_and_data_of_the_converter_count(weights, plugin, monkeypatch, name):
    before = conversion_key("tflite", ARGUMENTS, [weights])
    (plugin / name).write_text("5")
    assert conversion_key("tflite", ARGUMENTS, [weights]) is None  # this process may still run the old code
    monkeypatch.setattr(cache_key, "_code_in_memory", {})  # as in a new process
    assert conversion_key("tflite", ARGUMENTS, [weights]) not in (None, before)


def test_compiled_files_do_not_count(plugin):
    before = code_digest("keyed_plugin")
    (plugin / "__pycache__").mkdir()
    (plugin / "__pycache__" / "a.pyc").write_bytes(b"1")
    assert code_digest("keyed_plugin") == before


def test_unreadable_file_forbids_caching(weights, tmp_path):
    assert conversion_key("tflite", ARGUMENTS, [weights, tmp_path / "gone.png"]) is None


def test_own_code_is_digested():
    assert code_digest("edgevit") == code_digest("edgevit") != code_digest("converters")


def test_entry_of_a_format_before_is_no_hit(weights, monkeypatch):
    key = conversion_key("tflite", ARGUMENTS, [weights])
    monkeypatch.setattr(cache_key, "_FORMAT", cache_key._FORMAT - 1)
    assert conversion_key("tflite", ARGUMENTS, [weights]) != key
