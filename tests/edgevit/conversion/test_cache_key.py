"""Every ingredient of an artifact changes its key."""

from __future__ import annotations

import dataclasses
import platform
import sys
from dataclasses import dataclass, fields, replace

import numpy as np
import pytest

from edgevit.conversion import cache_key
from edgevit.conversion.cache_key import NOT_IN_KEY, code_digest, conversion_key
from edgevit.conversion.request import ConversionRequest
from edgevit.errors import UsageError
from edgevit.spec import Precision
from tests.tiny import classifier_spec


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
def asked(tmp_path, plugin):
    """A request whose every field has a value of its own, and files behind its paths."""
    for name in ("w.pt", "other.pt", "p.png", "q.png"):
        (tmp_path / name).write_bytes(name.encode())
    return ConversionRequest(
        "van_b0", ("tflite",), weights=tmp_path / "w.pt", labels=("a", "b"), goldens=(tmp_path / "p.png",),
        options={"weight_compression": "none"},
    )  # fmt: skip


def _others(folder):
    """Another value for each field of a request; what is None here cannot be given together with a model's name."""
    return {
        "model": "van_b1",
        "targets": ("coreml",),
        "precision": Precision.FP16,
        "out": folder,
        "weights": folder / "other.pt",
        "num_classes": 7,
        "input_size": 64,
        "labels": ("b", "a"),
        "spec": None,
        "replace_head": True,
        "options": {"weight_compression": "int8"},
        "goldens": (folder / "q.png",),
        "deploy": False,
        "timeout_s": 5.0,
        "cache": False,
    }


def test_each_field_counts_unless_it_is_named_as_one_that_does_not(asked, tmp_path):
    others = _others(tmp_path)
    assert set(others) == {field.name for field in fields(ConversionRequest)}
    key = conversion_key(asked, "tflite")
    assert len(key) == 64
    for name, value in others.items():
        if value is None:
            with pytest.raises(UsageError):
                replace(asked, **{name: classifier_spec()})
            continue
        other = replace(asked, **{name: value})
        found = conversion_key(other, other.targets[0])
        assert found is not None
        assert (found == key) == (name in NOT_IN_KEY), name


@dataclass(frozen=True)
class Extended(ConversionRequest):
    """A request as somebody may extend it, who does not think of the cache."""

    rounding: str = "even"


def test_field_that_nobody_thought_of_counts(asked):
    keys = {conversion_key(Extended(**vars(asked), rounding=kind), "tflite") for kind in ("even", "up")}
    assert len(keys) == 2


def test_same_words_give_the_same_key(asked):
    assert conversion_key(replace(asked), "tflite") == conversion_key(asked, "tflite")
    spelled = replace(asked, options={"tflite.weight_compression": "none"})
    assert conversion_key(spelled, "tflite") == conversion_key(asked, "tflite")


def test_options_and_targets_beside_it_do_not_count(asked):
    both = replace(asked, targets=("tflite", "coreml"), options={"coreml.author": "A"})
    assert conversion_key(both, "tflite") == conversion_key(asked, "tflite")
    assert conversion_key(both, "coreml") != conversion_key(replace(both, options={}), "coreml")


def test_bytes_names_and_order_of_files_count(asked, tmp_path):
    both = replace(asked, goldens=(tmp_path / "p.png", tmp_path / "q.png"))
    keys = [
        conversion_key(one, "tflite")
        for one in (asked, replace(asked, weights=None), both, replace(both, goldens=both.goldens[::-1]))
    ]
    for path in (tmp_path / "w.pt", tmp_path / "p.png"):
        path.write_bytes(path.read_bytes() + b"!")
        keys.append(conversion_key(asked, "tflite"))
    (tmp_path / "w.pt").rename(tmp_path / "renamed.pt")  # the manifest names the file
    keys.append(conversion_key(replace(asked, weights=tmp_path / "renamed.pt"), "tflite"))
    assert None not in keys
    assert len(set(keys)) == len(keys)


def test_bytes_and_place_of_a_users_own_model_count(asked, tmp_path, monkeypatch):
    (tmp_path / "net.py").write_text("1")
    own = replace(asked, model=f"{tmp_path / 'net.py'}:build")
    keys = [conversion_key(own, "tflite"), conversion_key(replace(own, model=f"{own.model}_other"), "tflite")]
    (tmp_path / "net.py").write_text("2")
    keys.append(conversion_key(own, "tflite"))
    monkeypatch.chdir(tmp_path)
    keys.append(conversion_key(own, "tflite"))
    monkeypatch.syspath_prepend(tmp_path)
    keys.append(conversion_key(own, "tflite"))
    assert None not in keys
    assert len(set(keys)) == len(keys)


def test_what_lies_in_memory_forbids_caching(asked):
    assert conversion_key(replace(asked, goldens=(np.zeros((8, 8, 3), np.uint8),)), "tflite") is None
    assert conversion_key(dataclasses.replace(asked, model=object()), "tflite") is None


def test_python_platform_and_distributions_count(asked, plugin, monkeypatch):
    keys = [conversion_key(asked, "tflite")]
    (plugin.parent / "torch-99.0.dist-info").mkdir()
    keys.append(conversion_key(asked, "tflite"))
    monkeypatch.setattr(sys, "version", "4.0")
    keys.append(conversion_key(asked, "tflite"))
    monkeypatch.setattr(platform, "platform", lambda: "Other-1")
    keys.append(conversion_key(asked, "tflite"))
    assert len(set(keys)) == 4
    assert None not in keys


@pytest.mark.parametrize("name", ["__init__.py", "table.json", "new.py"])
def test_code_and_data_of_the_converter_count(asked, plugin, monkeypatch, name):
    before = conversion_key(asked, "tflite")
    (plugin / name).write_text("5")
    assert conversion_key(asked, "tflite") is None  # this process may still run the old code
    monkeypatch.setattr(cache_key, "_code_in_memory", {})  # as in a new process
    assert conversion_key(asked, "tflite") not in (None, before)


def test_compiled_files_do_not_count(plugin):
    before = code_digest("keyed_plugin")
    (plugin / "__pycache__").mkdir()
    (plugin / "__pycache__" / "a.pyc").write_bytes(b"1")
    assert code_digest("keyed_plugin") == before


def test_unreadable_file_forbids_caching(asked, tmp_path):
    assert conversion_key(replace(asked, goldens=(tmp_path / "gone.png",)), "tflite") is None


def test_own_code_is_digested():
    assert code_digest("edgevit") == code_digest("edgevit") != code_digest("converters")


def test_entry_of_a_format_before_is_no_hit(asked, monkeypatch):
    key = conversion_key(asked, "tflite")
    monkeypatch.setattr(cache_key, "_FORMAT", cache_key._FORMAT - 1)
    assert conversion_key(asked, "tflite") != key
