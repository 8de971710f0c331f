"""Files under the settings of phones: what is right, and how the ways to go wrong are told apart."""

from __future__ import annotations

import dataclasses
import time

import numpy as np
import pytest

from edgevit.contract.manifest import Executed, Outcome, Tolerance, read_manifest
from edgevit.contract.provenance import WeightsOrigin
from edgevit.errors import DeviceError, ParityError, StorageError, UsageError
from edgevit.spec import Precision
from edgevit.targets import registry
from edgevit.verification import phone_settings
from edgevit.verification.checks import examine
from edgevit.verification.phone_settings import execution_of, file_without_manifest, waiting_child
from tests.fakes import CONVERTER, ENTRY, PHONES, install_target, make_provenance, write_artifact


@pytest.fixture(autouse=True)
def _installed(tmp_path, monkeypatch):
    """This process and its children know the target "phones"."""
    monkeypatch.setenv("PYTHONPATH", install_target(tmp_path / "site"))
    for module in (phone_settings, registry):
        monkeypatch.setattr(f"{module.__name__}.get_converter", lambda name: PHONES)
    monkeypatch.setattr("edgevit.artifacts.artifact.get_converter", lambda name: PHONES)
    monkeypatch.setattr(phone_settings, "converter_names", lambda: ("phones",))


def _artifact(tmp_path, **model):
    artifact = write_artifact(tmp_path / "shelf", "van-fp32-phones", target="phones", **model)
    facts = make_provenance(weights=WeightsOrigin("checkpoint", "0" * 64, file="van.pt"))
    return dataclasses.replace(artifact, manifest=dataclasses.replace(artifact.manifest, provenance=facts))


def _outcomes(execution):
    return [(row.settings["cache"], row.outcome) for row in execution.rows]


def test_right_file_has_a_row_for_each_setting(tmp_path):
    execution = execution_of(_artifact(tmp_path))
    assert _outcomes(execution) == [("off", Outcome.EQUAL), ("on", Outcome.EQUAL)]
    assert (execution.failure, execution.unproven) == (None, "")
    assert execution.summary() == "right under 2 of 2 settings of phones"
    row = execution.rows[0]
    assert (row.runtime.name, row.reason, row.max_relative_error, row.snr_db) == ("phones", None, None, None)


def test_difference_within_the_tolerance_is_measured(tmp_path):
    execution = execution_of(_artifact(tmp_path, under={"on": 1 + 2e-6}))
    assert _outcomes(execution) == [("off", Outcome.EQUAL), ("on", Outcome.WITHIN)]
    assert execution.rows[1].max_relative_error == pytest.approx(2e-6, rel=0.1)
    assert execution.failure is None


def test_difference_beyond_the_tolerance_is_a_parity_error_with_the_command_that_fixes_it(tmp_path):
    execution = execution_of(_artifact(tmp_path, under={"on": 1.1}))
    assert _outcomes(execution) == [("off", Outcome.EQUAL), ("on", Outcome.DIFFERS)]
    assert isinstance(execution.failure, ParityError)
    assert "is wrong under 1 of 2 settings of phones, first with cache=on: max rel. error 1.00e-01" in str(
        execution.failure
    )
    assert "edgevit convert FILE.py:van --weights van.pt --target phones --precision fp32" in execution.failure.fix


def test_int8_must_be_bit_exact(tmp_path):
    tolerance = Tolerance(min_snr_db=25.0)
    artifact = _artifact(tmp_path, under={"on": 1 + 2e-6}, precision=Precision.INT8, tolerance=tolerance)
    execution = execution_of(artifact)
    assert _outcomes(execution) == [("off", Outcome.EQUAL), ("on", Outcome.DIFFERS)]
    assert "10 of 10 inputs" in execution.failure.message


def test_values_that_are_not_finite_differ(tmp_path):
    execution = execution_of(_artifact(tmp_path, under={"on": 1e39}))
    assert execution.rows[1].outcome is Outcome.DIFFERS
    assert "not finite" in execution.rows[1].reason


SENTENCES = {
    "crash": (Outcome.CRASHED, ParityError, "the process ended with signal SIGSEGV"),
    "error": (Outcome.CRASHED, ParityError, "RuntimeError: kernel 17 is missing"),
    "hang": (Outcome.NOT_EXECUTED, DeviceError, "did not end within 3 s"),
    "killed": (Outcome.NOT_EXECUTED, DeviceError, "was killed from outside, most likely because memory ran out"),
}


@pytest.mark.parametrize("behaviour", SENTENCES)
def test_each_end_has_a_sentence_of_its_own_and_no_other_setting_pays_for_it(tmp_path, monkeypatch, behaviour):
    monkeypatch.setattr(phone_settings, "_LIMIT_S", 3)
    outcome, error, sentence = SENTENCES[behaviour]
    execution = execution_of(_artifact(tmp_path, under={"off": behaviour}))
    assert _outcomes(execution) == [("off", outcome), ("on", Outcome.EQUAL)]
    assert sentence in execution.rows[0].reason
    assert isinstance(execution.failure, error)
    assert sentence in execution.failure.message
    assert "right under 1 of 2" in execution.summary()


def test_refused_switch_is_no_failure_and_no_proof(tmp_path):
    execution = execution_of(_artifact(tmp_path, under={"on": "refused"}))
    assert _outcomes(execution) == [("off", Outcome.EQUAL), ("on", Outcome.NOT_EXECUTED)]
    assert execution.failure is None
    assert execution.unproven == execution.rows[1].reason == "the runtime refused cache=on (error 0x12)"


def test_file_that_runs_nowhere_is_reported_so(tmp_path):
    execution = execution_of(_artifact(tmp_path, under={"on": "error", "off": "error"}))
    assert isinstance(execution.failure, DeviceError)
    assert "does not run here: RuntimeError: kernel 17 is missing" in execution.failure.message


def test_file_that_is_wrong_only_behind_another_setting_is_wrong(tmp_path):
    execution = execution_of(_artifact(tmp_path, under={"on": "second"}))
    assert _outcomes(execution) == [("off", Outcome.EQUAL), ("on", Outcome.DIFFERS)]
    assert execution.rows[1].reason.endswith("after other settings ran in the same process")
    assert isinstance(execution.failure, ParityError)


def test_rows_survive_the_manifest(tmp_path):
    artifact = _artifact(tmp_path, under={"on": 1.1})
    rows = execution_of(artifact).rows
    dataclasses.replace(artifact.manifest, executed=rows).write(artifact.path)
    assert read_manifest(artifact.path).executed == rows


def test_waiting_child_is_gone_when_its_work_is(tmp_path):
    begun = time.monotonic()
    with waiting_child(PHONES) as child:
        ended = child._ended
        assert not ended.done()
    assert ended.done()
    assert time.monotonic() - begun < 60


def test_target_without_settings_has_no_child():
    with waiting_child(CONVERTER) as child:
        assert child is None


def test_model_file_alone_is_found_and_an_artifact_is_none(tmp_path):
    artifact = _artifact(tmp_path)
    lone = tmp_path / "of others"
    lone.mkdir()
    (lone / ENTRY).write_bytes((artifact.path / ENTRY).read_bytes())
    assert file_without_manifest(lone / ENTRY) == lone / ENTRY
    assert file_without_manifest(lone) == lone / ENTRY
    assert file_without_manifest(artifact.path) is None
    assert file_without_manifest(tmp_path / "nowhere") is None
    (lone / f"second{PHONES.suffix}").write_text("{}")
    with pytest.raises(UsageError, match="holds 2 model files"):
        file_without_manifest(lone)


def test_full_disk_is_no_fault_of_the_file(tmp_path, monkeypatch):
    def full(path, runs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("edgevit.verification.settings_worker._save", full)
    with pytest.raises(StorageError, match="No space left on device"):
        execution_of(_artifact(tmp_path))


def test_machine_without_memory_is_no_fault_of_the_file(tmp_path):
    execution = execution_of(_artifact(tmp_path, under={"on": "memory"}))
    assert _outcomes(execution) == [("off", Outcome.EQUAL), ("on", Outcome.NOT_EXECUTED)]
    assert isinstance(execution.failure, DeviceError)
    assert "ran out of memory" in execution.failure.message


def test_file_that_ends_every_process_does_not_end_verify(tmp_path, monkeypatch):
    monkeypatch.setattr("edgevit.verification.checks.get_converter", lambda name: PHONES)
    artifact = _artifact(tmp_path, behaviour="crash", under={"off": "crash", "on": "crash"})
    result = examine(artifact.path, settings=True)
    assert not isinstance(result.parity, Executed)
    assert "signal SIGSEGV" in result.parity.reason
    with pytest.raises(ParityError, match="crashes under 2 of 2 settings of phones"):
        result.require()


def test_noise_fits_what_a_file_takes():
    from edgevit.spec import TensorSpec
    from edgevit.targets.base import ModelFile

    specs = tuple(TensorSpec(name, (64,), name) for name in ("float32", "float16", "uint8", "int8", "int64", "bool"))
    noise = phone_settings._noise(ModelFile("model", specs, ()), 0)
    assert {name: array.dtype.name for name, array in noise.items()} == {spec.name: spec.dtype for spec in specs}
    assert set(np.unique(noise["int64"])) == {0, 1}
    assert noise["int8"].min() < -100
    assert noise["uint8"].max() > 200
