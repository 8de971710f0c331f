"""Errors that went through JSON are what they were, or are refused; nothing else of a foreign class runs."""

from __future__ import annotations

import dataclasses
import json
import math
import sys

import pytest

from edgevit import errors
from edgevit.contract.manifest import Executed
from edgevit.errors import EdgevitError, ParityError
from edgevit.infra.error_records import error_from_json, error_text, error_to_json
from edgevit.targets.base import NotExecutable

OWN = {"edgevit"}
OWN_ERRORS = [
    *(kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, EdgevitError)),
    NotExecutable,
]
PLUGIN = '''
from dataclasses import dataclass
from edgevit.errors import ConversionError, EdgevitError

@dataclass(frozen=True)
class Place:
    node: str
    line: int

class UnknownOp(ConversionError):
    """Its constructor wants more than a message."""
    def __init__(self, op, place, sizes, handle):
        super().__init__(f"no kernel for {op}", fix="write one")
        self.op, self.place, self.sizes, self.handle = op, place, sizes, handle
        self.exit_code = 9

class Outer:
    class Inner(EdgevitError):
        pass

class Silent(EdgevitError):
    def __init__(self, code):
        self.code = code
        Exception.__init__(self, "code", code)

class Loud(EdgevitError):
    def __new__(cls, *arguments):
        if not arguments or arguments[0] != "made here":
            raise RuntimeError("must not run")
        return super().__new__(cls, *arguments)

class OfSystem(EdgevitError, OSError):
    pass

class NoError(Exception):
    pass

not_a_class = 5
'''


@pytest.fixture
def plugin(tmp_path, monkeypatch):
    """A package "faulty_plugin", imported."""
    (tmp_path / "faulty_plugin.py").write_text(PLUGIN)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "faulty_plugin", raising=False)
    import faulty_plugin

    return faulty_plugin


def _sent(error, packages=OWN):
    """Through the text of a JSON file."""
    return error_from_json(json.loads(json.dumps(error_to_json(error), allow_nan=False)), packages)


@pytest.mark.parametrize("kind", OWN_ERRORS, ids=lambda kind: kind.__name__)
def test_own_error_arrives_as_itself(kind):
    found = _sent(kind("it broke", fix="mend it"))
    assert type(found) is kind
    assert (found.message, found.fix, str(found)) == ("it broke", "mend it", "it broke (mend it)")
    assert found.exit_code == kind.exit_code


def test_parity_error_brings_its_numbers():
    parity = Executed("litert 2", 4, 0.5, math.inf, None, 0.25, 0.75, "wrong")
    found = _sent(ParityError("differs", fix="do not ship it", parity=parity))
    assert type(found) is ParityError
    assert found.parity == parity
    assert type(found.parity) is Executed


def test_error_of_a_plugin_arrives_with_its_plain_fields(plugin):
    place = plugin.Place("conv1", 7)
    sent = plugin.UnknownOp("aten.foo", place, {"in": (1, [2.5, math.nan])}, handle=object())
    sent.add_note("seen while lowering")
    found = _sent(sent, {"edgevit", "faulty_plugin"})
    assert type(found) is plugin.UnknownOp
    assert (found.op, found.place, found.handle, found.exit_code) == ("aten.foo", place, None, 9)
    (first, (second, third)) = found.sizes["in"]
    assert (first, second, math.isnan(third)) == (1, 2.5, True)
    assert isinstance(found.sizes["in"], tuple)
    assert found.__notes__ == ["seen while lowering"]
    assert (found.message, found.fix) == ("no kernel for aten.foo", "write one")


def test_class_inside_a_class_is_found(plugin):
    assert type(_sent(plugin.Outer.Inner("a"), {"faulty_plugin"})) is plugin.Outer.Inner


def test_error_without_our_constructor_has_its_arguments_as_message(plugin):
    found = _sent(plugin.Silent(3), {"faulty_plugin"})
    assert (found.message, found.fix, found.code) == ("code 3", "", 3)


def test_no_constructor_of_a_plugin_runs(plugin):
    assert type(_sent(plugin.Loud("made here"), {"faulty_plugin"})) is plugin.Loud
    record = error_to_json(plugin.Loud("made here")) | {"message": "another"}
    assert error_from_json(record, {"faulty_plugin"}).message == "another"


def test_class_of_another_package_is_not_imported(tmp_path, monkeypatch):
    (tmp_path / "stranger.py").write_text("raise RuntimeError('imported')\n")
    monkeypatch.syspath_prepend(tmp_path)
    record = {"module": "stranger", "name": "Odd", "message": "m", "fix": "", "fields": {}}
    assert error_from_json(record, OWN) is None
    assert "stranger" not in sys.modules


def _local():
    class Local(EdgevitError):
        pass

    return Local("out of reach")


@pytest.mark.parametrize("text", ["raise RuntimeError('no')", "import absent_library", "import sys; sys.exit(3)", "("])
def test_module_that_fails_when_imported_is_refused(tmp_path, monkeypatch, text):
    (tmp_path / "broken_plugin.py").write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    record = {"module": "broken_plugin", "name": "Odd", "message": "m", "fix": "", "fields": {}}
    assert error_from_json(record, {"broken_plugin"}) is None


def test_what_is_no_reachable_edgevit_error_is_refused(plugin):
    packages = {"edgevit", "tests", "builtins", "faulty_plugin"}
    for error in (_local(), RuntimeError("x"), plugin.NoError("x"), plugin.OfSystem("x")):
        assert _sent(error, packages) is None
    for name in ("not_a_class", "Absent", "Outer", "Place", "__name__"):
        record = {"module": "faulty_plugin", "name": name, "message": "m", "fix": "", "fields": {}}
        assert error_from_json(record, packages) is None


def test_field_that_is_no_such_dataclass_is_refused(plugin):
    record = error_to_json(ParityError("m", parity=Executed("r", 4, 0.5, 0.25, None, 0.9, 0.75)))
    module, name, fields = record["fields"]["parity"]["dataclass"]
    for wrong in (
        ["faulty_plugin", "Place", fields],
        [module, name, {**fields, "more": 1}],
        ["edgevit.errors", "EdgevitError", fields],
    ):
        changed = record | {"fields": {"parity": {"dataclass": wrong}}}
        assert error_from_json(changed, {"edgevit", "faulty_plugin"}) is None


@dataclasses.dataclass
class _Ring:
    other: object = None


def test_value_without_an_end_is_left_out():
    ring = _Ring()
    ring.other = [ring]
    assert _sent(ParityError("m", parity=ring), {"edgevit", "tests"}).parity is None


class _Mute(Exception):
    def __str__(self):
        raise ValueError("no words")


def test_text_of_any_error():
    assert error_text(error_to_json(RuntimeError("kernel 17 is missing"))) == "RuntimeError: kernel 17 is missing"
    assert error_text(error_to_json(MemoryError())) == "MemoryError"
    assert error_text(error_to_json(_Mute())) == "_Mute"
    assert error_text(error_to_json(errors.UsageError("no file \udcff.pt"))) == r"UsageError: no file \udcff.pt"
