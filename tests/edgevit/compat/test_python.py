"""What edgevit/compat/python.py relies on."""

from __future__ import annotations

import importlib
import sys

from edgevit.compat.python import LOAD_MODULE, READ_CODE, loaded_file


def test_frames_show_which_file_is_imported(tmp_path, monkeypatch):
    opened = []

    def look(event, arguments):
        if not watching or event != "open":  # to look at a frame is an event, too
            return
        frame = sys._getframe().f_back
        opened.append(("code" if frame.f_code is READ_CODE else "file", str(arguments[0])))
        while frame is not None:
            if frame.f_code is LOAD_MODULE:
                opened.append(("loading", loaded_file(frame)))
            frame = frame.f_back

    (tmp_path / "a_module_to_import.py").write_text("open(__file__).close()\n")
    monkeypatch.syspath_prepend(tmp_path)
    watching = True
    sys.addaudithook(look)  # stays for the process, idle
    importlib.import_module("a_module_to_import")
    watching = False
    path = str(tmp_path / "a_module_to_import.py")
    assert {("code", path), ("file", path), ("loading", path)} <= set(opened)
    del sys.modules["a_module_to_import"]
