"""Atomic files and folders."""

from __future__ import annotations

import os
import shutil

import pytest

from edgevit.errors import StorageError
from edgevit.infra.files import atomic_folder, list_files, sha256_file, write_bytes, write_json


def _names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_failed_folder_leaves_nothing(tmp_path):
    with pytest.raises(RuntimeError), atomic_folder(tmp_path / "a") as building:
        (building / "x").write_text("half")
        raise RuntimeError
    assert _names(tmp_path) == []


def test_failed_replacement_keeps_the_old_folder(tmp_path):
    with atomic_folder(tmp_path / "a") as building:
        (building / "x").write_text("old")
    with pytest.raises(KeyboardInterrupt), atomic_folder(tmp_path / "a") as building:
        (building / "x").write_text("new")
        raise KeyboardInterrupt
    assert (tmp_path / "a" / "x").read_text() == "old"
    assert _names(tmp_path) == ["a"]


def test_replacement_swaps_the_whole_folder(tmp_path):
    for content in ("old", "new"):
        with atomic_folder(tmp_path / "a") as building:
            (building / content).write_text(content)
    assert _names(tmp_path / "a") == ["new"]
    assert _names(tmp_path) == ["a"]


@pytest.mark.parametrize("other", ["takes the old folder away", "puts a third one there"])
def test_two_processes_at_the_same_folder_leave_one_and_nothing_else(tmp_path, monkeypatch, other):
    path, replace, calls = tmp_path / "a", os.replace, []
    path.mkdir()
    (path / "old").write_text("")

    def crossed(source, destination):
        calls.append(source)
        if other == "takes the old folder away" and len(calls) == 1:
            shutil.rmtree(path)
        if other == "puts a third one there" and len(calls) == 2:
            path.mkdir()
            (path / "third").write_text("")
        replace(source, destination)

    monkeypatch.setattr(os, "replace", crossed)
    with atomic_folder(path) as building:
        (building / "new").write_text("")
    assert _names(path) == ["new"]
    assert _names(tmp_path) == ["a"]


def test_a_swap_that_fails_puts_the_old_folder_back(tmp_path, monkeypatch):
    path, replace, calls = tmp_path / "a", os.replace, []
    path.mkdir()
    (path / "old").write_text("")

    def full(source, destination):
        calls.append(source)
        if len(calls) == 2:
            raise OSError(28, "No space left on device")
        replace(source, destination)

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(StorageError, match="No space left"), atomic_folder(path) as building:
        (building / "new").write_text("")
    assert _names(path) == ["old"]
    assert _names(tmp_path) == ["a"]


def test_write_into_a_file_instead_of_a_folder_is_a_storage_error(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="cannot write"):
        write_bytes(tmp_path / "file" / "x", b"")
    with pytest.raises(StorageError, match="cannot write"), atomic_folder(tmp_path / "file" / "x"):
        pass


def test_full_disk_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "x"
    write_bytes(path, b"old")
    monkeypatch.setattr(os, "fsync", lambda _: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    with pytest.raises(StorageError, match="No space left"):
        write_bytes(path, b"new")
    assert path.read_bytes() == b"old"
    assert _names(tmp_path) == ["x"]


def test_nan_is_refused_in_json(tmp_path):
    with pytest.raises(ValueError, match="Out of range"):
        write_json(tmp_path / "x", {"a": float("nan")})
    assert _names(tmp_path) == []


def test_hash_and_listing(tmp_path):
    write_bytes(tmp_path / "b" / "x", b"abc")
    write_bytes(tmp_path / "a", b"")
    assert [path.as_posix() for path in list_files(tmp_path)] == ["a", "b/x"]
    assert sha256_file(tmp_path / "b" / "x") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
