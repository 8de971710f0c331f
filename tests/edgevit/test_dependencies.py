"""What a user's model file reads while it is loaded; in processes of their own, where nothing is loaded before."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from edgevit.dependencies import unchanged

SCRIPT = """
import json, sys
from pathlib import Path
from edgevit.dependencies import record_dependencies
sys.path.insert(0, ".")
rounds = []
for code in sys.argv[1:]:
    with record_dependencies(("edgevit",), (Path("declared.bin"),)) as recorded:
        exec(code)
    rounds.append([recorded.files, recorded.doubt])
print(json.dumps(rounds))
"""


@pytest.fixture
def folder(tmp_path):
    """A package, a module that uses it, and two data files."""
    (tmp_path / "layers").mkdir()
    (tmp_path / "layers/__init__.py").write_text("from layers.block import width\n")
    (tmp_path / "layers/block.py").write_text("width = 8\n")
    (tmp_path / "net.py").write_text("import layers\nwidth = layers.width\n")
    (tmp_path / "table.bin").write_bytes(b"1")
    (tmp_path / "declared.bin").write_bytes(b"2")
    return tmp_path


def record(folder: Path, *codes: str, script: str = SCRIPT) -> list[tuple[dict[str, str], str]]:
    """(files by name relative to the folder, doubt) of each code, in one process."""
    argv = [sys.executable, "-c", script, *codes]
    done = subprocess.run(argv, cwd=folder, capture_output=True, text=True, check=True, timeout=60)
    base = folder.resolve()
    return [
        ({Path(p).relative_to(base).as_posix(): d for p, d in files.items() if Path(p).is_relative_to(base)}, doubt)
        for files, doubt in json.loads(done.stdout)
    ]


@pytest.mark.parametrize("compiled", [False, True])
def test_modules_and_data_are_noted_and_declared_files_are_not(folder, compiled):
    if compiled:
        record(folder, "import net")  # leaves .pyc files, so that the sources themselves are not opened
    ((files, doubt),) = record(folder, "import net; open('table.bin').read(); open('declared.bin').read()")
    assert set(files) == {"net.py", "layers/__init__.py", "layers/block.py", "table.bin"}
    assert all(len(digest) == 64 for digest in files.values())
    assert doubt == ""


def test_a_file_looked_for_in_vain_is_noted(folder):
    code = "try:\n    open('weights.pt')\nexcept OSError:\n    pass"
    ((files, _),) = record(folder, code)
    assert files == {"weights.pt": ""}
    absolute = {str(folder / "weights.pt"): ""}
    assert unchanged(absolute)
    (folder / "weights.pt").write_bytes(b"now it is here")
    assert not unchanged(absolute)


def test_written_files_are_no_input(folder):
    ((files, doubt),) = record(folder, "open('log.txt', 'w').write('x'); import tempfile; tempfile.TemporaryFile()")
    assert (files, doubt) == ({}, "")


@pytest.mark.parametrize(
    ("code", "event"),
    [
        ("import subprocess; subprocess.run(['true'])", "subprocess.Popen"),
        ("import os; os.system('true')", "os.system"),
        ("import socket; s = socket.socket(); s.settimeout(0.1); s.connect_ex(('127.0.0.1', 9))", "socket.connect"),
    ],
)
def test_what_files_do_not_show_raises_doubt(folder, code, event):
    ((_, doubt),) = record(folder, code)
    assert doubt == f"its code calls {event}"


def test_native_reader_raises_doubt_unless_the_weights_are_given(folder):
    code = "import types; sys.modules['safetensors'] = types.ModuleType('safetensors')"
    assert record(folder, code)[0][1] == "safetensors may have read files unseen"
    given = SCRIPT.replace('"declared.bin"),)', '"declared.bin"),), weights_given=True')
    assert record(folder, code, script=given)[0][1] == ""


def test_module_imported_before_raises_doubt(folder):
    ((_, doubt),) = record(folder, "pass", script=SCRIPT.replace("rounds = []", "rounds = []; import net"))
    assert doubt == "layers was imported earlier and may differ from its file"


def test_module_seen_before_is_trusted_until_its_file_changes(folder):
    change = "open('layers/block.py', 'w').write('width = 9')"
    first, second, third = record(folder, "import net", "import net", f"import net; {change}")
    assert first == second
    assert first[1] == ""
    assert third[1] == "layers.block was imported earlier and may differ from its file"
