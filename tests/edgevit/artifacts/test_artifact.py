"""The folder on disk: exactly the files that the manifest lists, and nothing that leads elsewhere."""

from __future__ import annotations

import os

import pytest

from edgevit.artifacts.artifact import check_files, file_entries
from edgevit.contract.manifest import LITTER
from edgevit.errors import ContractError


@pytest.fixture
def folder(tmp_path):
    path = tmp_path / "net-fp32-executorch"
    (path / "golden").mkdir(parents=True)
    (path / "model.pte").write_bytes(b"abc")
    (path / "golden" / "x.bin").write_bytes(b"1")
    return path


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"abd", "does not match the hash"),
        (b"ab", "has 2 bytes, its manifest says 3"),
        (None, r"model\.pte is missing"),
    ],
)
def test_files_are_held_to_their_hashes(folder, content, message):
    entries = file_entries(folder)
    check_files(folder, entries)
    (folder / "model.pte").unlink()
    if content is not None:
        (folder / "model.pte").write_bytes(content)
    with pytest.raises(ContractError, match=message):
        check_files(folder, entries)


@pytest.mark.parametrize("name", ["more", ".hidden", "golden/.x.bin", "golden/y/z"])
def test_file_that_is_not_listed_is_refused(folder, name):
    entries = file_entries(folder)
    (folder / name).parent.mkdir(exist_ok=True)
    (folder / name).write_text("")
    with pytest.raises(ContractError, match=f"does not know: {name}"):
        check_files(folder, entries)


def test_dot_files_are_listed(folder):
    (folder / ".hidden").write_text("")
    assert [entry.path for entry in file_entries(folder)] == [".hidden", "golden/x.bin", "model.pte"]


@pytest.mark.parametrize("name", sorted(LITTER))
def test_litter_of_file_managers_is_neither_listed_nor_opened(folder, name):
    entries = file_entries(folder)
    for place in (folder, folder / "golden"):
        (place / name).write_text("layout of icons")
        (place / name).chmod(0)
    check_files(folder, entries)
    assert file_entries(folder) == entries


@pytest.mark.parametrize("place", ["model.pte", "golden", "more", ".DS_Store"])
def test_link_is_refused_wherever_it_is(folder, tmp_path, place):
    entries = file_entries(folder)
    if (folder / place).exists():
        (folder / place).rename(tmp_path / "real")
    else:
        (tmp_path / "real").write_bytes(b"abc")
    (folder / place).symlink_to(tmp_path / "real")
    with pytest.raises(ContractError, match="is a symbolic link"):
        check_files(folder, entries)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no named pipes")
def test_pipe_is_refused_before_anybody_reads_it(folder):
    entries = file_entries(folder)
    os.mkfifo(folder / "pipe")
    with pytest.raises(ContractError, match="is no regular file"):
        check_files(folder, entries)


def test_manifest_that_lists_its_way_out_finds_nothing(folder, tmp_path):
    (tmp_path / "secret").write_text("")
    (entry,) = file_entries(folder)[:1]
    escaping = type(entry)("../secret", entry.sha256, 0)
    with pytest.raises(ContractError, match="is missing"):
        check_files(folder, (*file_entries(folder), escaping))
