"""The artifact cache under damage, edits, crowding and other processes."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from edgevit.artifacts.artifact import load_artifact
from edgevit.conversion.cache import ArtifactCache, open_cache
from edgevit.errors import ContractError, StorageError, UsageError
from tests.fakes import ENTRY, write_artifact

KEY, OTHER = "a" * 64, "b" * 64
GB = 1 << 30


@pytest.fixture
def artifact(tmp_path):
    return write_artifact(tmp_path / "made")


@pytest.fixture
def cache(tmp_path):
    return ArtifactCache(tmp_path / "cache", GB)


def store(cache, key, artifact, dependencies=None):
    cache.store(key, artifact, artifact.manifest_sha256, dependencies or {})


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def keys(cache) -> set[str]:
    return {path.name for path in cache.folder.iterdir()}


def test_what_was_stored_comes_back_whole(cache, artifact, tmp_path):
    assert cache.fetch(KEY, tmp_path / "out") is None
    store(cache, KEY, artifact)
    found = cache.fetch(KEY, tmp_path / "out")
    assert found.path == tmp_path / "out" / artifact.name
    assert found.manifest == artifact.manifest
    assert contents(found.path) == contents(artifact.path)
    assert cache.fetch(OTHER, tmp_path / "out") is None
    assert [path.name for path in (tmp_path / "out").iterdir()] == [artifact.name]


def test_editing_an_artifact_does_not_edit_the_cache(cache, artifact, tmp_path):
    store(cache, KEY, artifact)
    for folder in (artifact.path, cache.fetch(KEY, tmp_path / "out").path):
        with (folder / ENTRY).open("r+b") as file:
            file.write(b"edited in place")
    again = cache.fetch(KEY, tmp_path / "other")
    assert load_artifact(again.path).manifest == artifact.manifest
    assert load_artifact(cache.fetch(KEY, tmp_path / "out").path).manifest == artifact.manifest  # and mends the edit


def test_identical_artifact_is_left_untouched(cache, artifact, tmp_path):
    store(cache, KEY, artifact)
    cache.fetch(KEY, tmp_path / "out")
    inodes = {path: path.stat().st_ino for path in (tmp_path / "out").rglob("*")}
    assert cache.fetch(KEY, tmp_path / "out").manifest == artifact.manifest
    assert {path: path.stat().st_ino for path in (tmp_path / "out").rglob("*")} == inodes


def _flip(entry):
    path = next(entry.glob(f"*/{ENTRY}"))
    data = bytearray(path.read_bytes())
    data[0] ^= 1
    path.write_bytes(data)


DAMAGES = {
    "flipped byte": _flip,
    "file gone": lambda entry: next(entry.glob("*/golden/*.bin")).unlink(),
    "manifest cut": lambda entry: next(entry.glob("*/manifest.json")).write_text("{"),
    "facts cut": lambda entry: (entry / "entry.json").write_text('{"name": '),
    "facts of another kind": lambda entry: (entry / "entry.json").write_text("[]"),
    "name outside": lambda entry: (entry / "entry.json").write_text('{"name": "../x", "dependencies": {}}'),
    "artifact gone": lambda entry: shutil.rmtree(next(path for path in entry.iterdir() if path.is_dir())),
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_damaged_entry_is_dropped_and_said(cache, artifact, tmp_path, caplog, damage):
    store(cache, KEY, artifact)
    damage(cache.folder / KEY)
    assert cache.fetch(KEY, tmp_path / "out") is None
    assert not (tmp_path / "out" / artifact.name).exists()
    assert keys(cache) == set()
    assert "damaged and converted anew" in caplog.text
    store(cache, KEY, artifact)
    assert cache.fetch(KEY, tmp_path / "out").manifest == artifact.manifest


def test_changed_dependency_is_a_miss_and_the_new_one_replaces_it(cache, artifact, tmp_path):
    helper = tmp_path / "helper.py"
    helper.write_text("1")
    digest = "6b86b273ff34fce19d6b804eff5a3f5747ada4eaa22f1d49c01e52ddb7875b4b"
    store(cache, KEY, artifact, {str(helper): digest})
    assert cache.fetch(KEY, tmp_path / "out") is not None
    helper.write_text("2")
    assert cache.fetch(KEY, tmp_path / "out") is None
    store(cache, KEY, artifact, {})
    assert cache.fetch(KEY, tmp_path / "out") is not None


def test_least_recently_used_go_first(artifact, tmp_path):
    size = sum(len(data) for data in contents(artifact.path).values())
    cache = ArtifactCache(tmp_path / "cache", 3 * size + size // 2)
    names = [letter * 64 for letter in "abc"]
    for age, key in zip((30, 20, 10), names, strict=True):
        store(cache, key, artifact)
        then = time.time() - age
        os.utime(cache.folder / key / "entry.json", (then, then))
    cache.fetch(names[0], tmp_path / "out")
    store(cache, "d" * 64, artifact)
    assert keys(cache) == {names[0], names[2], "d" * 64}


def test_artifact_beyond_the_limit_is_not_stored(artifact, tmp_path):
    cache = ArtifactCache(tmp_path / "cache", 100)
    store(cache, KEY, artifact)
    assert not cache.folder.exists()


def test_what_killed_processes_left_goes_after_a_day(cache, artifact):
    for name, age in ((".old.building-x", 90000), (".new.building-y", 60)):
        (cache.folder / name).mkdir(parents=True)
        os.utime(cache.folder / name, (time.time() - age,) * 2)
    store(cache, KEY, artifact)
    assert keys(cache) == {".new.building-y", KEY}


def test_folder_replaced_by_another_conversion_is_not_stored(cache, artifact, tmp_path):
    expected = artifact.manifest_sha256
    shutil.rmtree(artifact.path)
    write_artifact(tmp_path / "made", gain=2.0, behaviour="absent")
    cache.store(KEY, artifact, expected, {})
    assert cache.fetch(KEY, tmp_path / "out") is None


@pytest.fixture(params=["file in the way", "read-only", "full"])
def unusable(request, tmp_path):
    """A cache folder that cannot be written."""
    folder = tmp_path / "mount"
    if request.param == "file in the way":
        folder.write_text("")
        yield folder
        return
    folder.mkdir()
    options = "ro" if request.param == "read-only" else "size=4k"
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)], check=False)
    if mounted.returncode:
        pytest.skip("mounting a small file system needs root")
    yield folder
    subprocess.run(["umount", str(folder)], check=False)


def test_unusable_folder_is_one_warning(unusable, artifact, tmp_path, caplog):
    cache = ArtifactCache(unusable, GB)
    for key in (KEY, OTHER):
        assert cache.fetch(key, tmp_path / "out") is None
        store(cache, key, artifact)
    assert len(caplog.records) == 1
    assert "nothing is cached: cannot write" in caplog.text


def test_read_only_cache_still_serves(cache, artifact, tmp_path, monkeypatch):
    store(cache, KEY, artifact)

    def refuse(path):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(os, "utime", refuse)
    assert cache.fetch(KEY, tmp_path / "out").manifest == artifact.manifest


def test_full_output_is_an_error_and_no_damage(cache, artifact, tmp_path, monkeypatch):
    store(cache, KEY, artifact)

    def full(source, destination):
        raise OSError(28, "No space left on device", str(destination))

    monkeypatch.setattr(shutil, "copyfile", full)
    with pytest.raises(StorageError, match="No space left on device"):
        cache.fetch(KEY, tmp_path / "out")
    assert keys(cache) == {KEY}


WRITER = """
import sys
from pathlib import Path
from edgevit.artifacts.artifact import load_artifact
from edgevit.conversion.cache import ArtifactCache
folder, made, out = map(Path, sys.argv[1:])
cache = ArtifactCache(folder, 1 << 30)
artifact = load_artifact(made)
hits = 0
for _ in range(25):
    cache.store("a" * 64, artifact, artifact.manifest_sha256, {})
    found = cache.fetch("a" * 64, out)
    if found is not None:
        assert load_artifact(found.path).manifest == artifact.manifest
        hits += 1
print(hits)
"""


def test_concurrent_processes_see_whole_entries_or_none(cache, artifact, tmp_path):
    def run(number):
        argv = [sys.executable, "-c", WRITER, str(cache.folder), str(artifact.path), str(tmp_path / f"out{number}")]
        return subprocess.run(argv, capture_output=True, text=True, check=False, timeout=120)

    with ThreadPoolExecutor(4) as pool:
        done = list(pool.map(run, range(4)))
    assert [d.returncode for d in done] == [0] * 4, done
    assert "damaged" not in "".join(d.stderr for d in done)
    assert "nothing is cached" not in "".join(d.stderr for d in done)
    assert sum(int(d.stdout) for d in done) > 50
    assert keys(cache) == {KEY}
    assert json.loads((cache.folder / KEY / "entry.json").read_text())["name"] == artifact.name
    assert load_artifact(cache.folder / KEY / artifact.name).manifest == artifact.manifest


def test_where_the_cache_lies(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.delenv("EDGEVIT_CACHE")
    assert open_cache().folder == tmp_path / ".cache" / "edgevit"
    assert open_cache().limit_bytes == 5_000_000_000
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert open_cache().folder == tmp_path / "xdg" / "edgevit"
    monkeypatch.setenv("EDGEVIT_CACHE", str(tmp_path / "own"))
    monkeypatch.setenv("EDGEVIT_CACHE_GB", "0.5")
    assert (open_cache().folder, open_cache().limit_bytes) == (tmp_path / "own", 500_000_000)
    monkeypatch.setenv("EDGEVIT_CACHE", "")
    assert open_cache() is None


def test_wrong_limit_is_named(monkeypatch, tmp_path):
    monkeypatch.setenv("EDGEVIT_CACHE", str(tmp_path))
    monkeypatch.setenv("EDGEVIT_CACHE_GB", "much")
    with pytest.raises(UsageError, match="EDGEVIT_CACHE_GB=much is no number"):
        open_cache()


def test_an_edited_cache_entry_never_reaches_the_output_half_way(cache, artifact, tmp_path):
    store(cache, KEY, artifact)
    cache.fetch(KEY, tmp_path / "out")
    (tmp_path / "out" / artifact.name / "manifest.json").write_text("{}")  # must be replaced, but not by this:
    _flip(cache.folder / KEY)
    assert cache.fetch(KEY, tmp_path / "out") is None
    with pytest.raises(ContractError):
        load_artifact(tmp_path / "out" / artifact.name)
    assert [path.name for path in (tmp_path / "out").iterdir()] == [artifact.name]
