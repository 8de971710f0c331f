"""What a user's model file reads while it is loaded; in processes of their own, where nothing is loaded before."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

from edgevit.conversion.file_tracking import unchanged

SCRIPT = """
import json, sys
from pathlib import Path
from edgevit.conversion.file_tracking import record_dependencies
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


INSTALLED = {
    "fakelib-1.0.dist-info/METADATA": "Metadata-Version: 2.1\nName: fakelib\nVersion: 1.0\n",
    "fakelib/__init__.py": "",
    "fakelib/tools.py": (
        "import subprocess\n"
        "def start():\n    subprocess.run(['true'])\n"
        "def load(path):\n    return open(path).read()\n"
        "def start_lazily():\n    import fakelib.starting\n"
        "callback = None\n"
    ),
    "fakelib/starting.py": "from fakelib import tools\ntools.start()\n",
    "fakelib/reading.py": "from fakelib import tools\ntools.load('settings.txt')\n",
    "fakelib/importing_helper.py": "import helper\n",
    "fakelib/tolerant.py": "try:\n    import helper\nexcept Exception:\n    pass\n",
    "fakelib/loading_by_path.py": (
        "from importlib.util import module_from_spec, spec_from_file_location\n"
        "spec = spec_from_file_location('nameless', 'helper.py')\n"
        "spec.loader.exec_module(module_from_spec(spec))\n"
    ),
    "fakelib/showing_callers.py": "import traceback\ntraceback.format_stack()\n",
    "fakelib/calling_back.py": "from fakelib import tools\ntools.callback()\n",
    "fakelib/executing_text.py": "from fakelib import tools\nexec('tools.start()')\n",
    "fakelib/threaded.py": (
        "import threading\nfrom fakelib import tools\n"
        "thread = threading.Thread(target=tools.start)\nthread.start()\nthread.join()\n"
    ),
}


@pytest.fixture
def library(folder, tmp_path_factory, monkeypatch):
    """The distribution "fakelib", installed for the user who runs the test: a module of it for every way to behave."""
    home = tmp_path_factory.mktemp("home")
    packages = Path(sysconfig.get_path("purelib", sysconfig.get_preferred_scheme("user"), {"userbase": str(home)}))
    for name, text in INSTALLED.items():
        (packages / name).parent.mkdir(parents=True, exist_ok=True)
        (packages / name).write_text(text)
    monkeypatch.setenv("PYTHONUSERBASE", str(home))
    # A virtual environment leaves a user's packages out of sys.path.
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(packages), str(Path(__file__).parents[3])]))
    (folder / "settings.txt").write_text("1")


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


@pytest.mark.parametrize(
    "code",
    [
        "import fakelib.starting",
        "import importlib; importlib.import_module('fakelib.starting')",
        "import fakelib.tools; fakelib.tools.start_lazily()",
        "import helper",
        "import fakelib.importing_helper",
    ],
)
def test_library_that_starts_a_process_while_a_users_file_imports_it_raises_no_doubt(folder, library, code):
    (folder / "helper.py").write_text("import fakelib.starting\n")
    ((files, doubt),) = record(folder, code)
    assert doubt == ""
    assert set(files) == ({"helper.py"} if "helper" in code else set())


@pytest.mark.parametrize(
    "code",
    [
        "import fakelib.tools; fakelib.tools.start()",
        "import fakelib.starting, subprocess; subprocess.run(['true'])",
        "import helper",
        "import fakelib.importing_helper",
        "import fakelib.tools; fakelib.tools.callback = lambda: fakelib.tools.start(); import fakelib.calling_back",
        "import fakelib.executing_text",
        "import fakelib.threaded",
        "import runpy; runpy.run_module('fakelib.starting')",
    ],
)
def test_process_that_no_import_of_a_library_alone_starts_raises_doubt(folder, library, code):
    (folder / "helper.py").write_text("from fakelib import tools\ntools.start()\n")
    ((_, doubt),) = record(folder, code)
    assert doubt == "its code calls subprocess.Popen"


def test_what_a_library_opens_is_noted_unless_it_is_being_imported(folder, library):
    assert record(folder, "import fakelib.reading") == [({}, "")]
    ((files, _),) = record(folder, "import fakelib.reading, fakelib.tools; fakelib.tools.load('table.bin')")
    assert set(files) == {"table.bin"}
    (folder / "helper.py").write_text("from fakelib import tools\ntools.load('table.bin')\n")
    ((files, _),) = record(folder, "import fakelib.importing_helper")
    assert set(files) == {"helper.py", "table.bin"}


@pytest.mark.parametrize(
    ("code", "text"), [("import fakelib.tolerant", "raise ValueError\n"), ("import fakelib.loading_by_path", "")]
)
def test_source_that_a_library_loads_while_it_is_imported_is_noted(folder, library, code, text):
    (folder / "helper.py").write_text(text)
    ((files, doubt),) = record(folder, code)
    assert (set(files), doubt) == ({"helper.py"}, "")


def test_script_that_a_library_shows_while_it_is_imported_is_not_noted(folder, library):
    (folder / "script.py").write_text("import fakelib.showing_callers\n")
    ((files, _),) = record(folder, "exec(compile('import fakelib.showing_callers', 'script.py', 'exec'))")
    assert files == {}


def test_native_reader_raises_doubt_unless_the_weights_are_given(folder):
    code = "import types; sys.modules['safetensors'] = types.ModuleType('safetensors')"
    assert record(folder, code)[0][1] == "safetensors may have read files unseen"
    given = SCRIPT.replace('"declared.bin"),)', '"declared.bin"),), weights_given=True')
    assert record(folder, code, script=given)[0][1] == ""


def test_module_imported_before_raises_doubt(folder):
    ((_, doubt),) = record(folder, "pass", script=SCRIPT.replace("rounds = []", "rounds = []; import net"))
    assert doubt == "layers was imported earlier and may differ from its file"


def test_script_that_loaded_multiprocessing_before_is_no_input(folder):
    (folder / "script.py").write_text("import multiprocessing\n" + SCRIPT)
    argv = [sys.executable, "script.py", "import net"]
    done = subprocess.run(argv, cwd=folder, capture_output=True, text=True, check=True, timeout=60)
    ((files, doubt),) = json.loads(done.stdout)
    assert doubt == ""
    assert {Path(path).name for path in files} == {"net.py", "__init__.py", "block.py"}


def test_module_seen_before_is_trusted_until_its_file_changes(folder):
    change = "open('layers/block.py', 'w').write('width = 9')"
    first, second, third = record(folder, "import net", "import net", f"import net; {change}")
    assert first == second
    assert first[1] == ""
    assert third[1] == "layers.block was imported earlier and may differ from its file"
