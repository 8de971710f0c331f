import sys

import numpy as np
import pytest

from edgevit.contract.job import Job
from edgevit.contract.manifest import Tolerance
from edgevit.contract.raw_report import Flag, read_raw_report
from edgevit.errors import ContractError, MissingDependency, UsageError
from edgevit.infra.files import write_json
from edgevit.profiling import runner
from tests.fakes import FakeClock, FakeConverter, FakeSession, make_job, write_artifact

MS = 1_000_000


@pytest.fixture
def artifact(tmp_path):
    return write_artifact(tmp_path)


@pytest.fixture(autouse=True)
def quiet_machine(monkeypatch):
    monkeypatch.setattr(runner, "load_average", lambda: 0.5)


def execute(artifact, *, durations_ms=(), load_ms=1, session=None, **job):
    """Run a job in fake time: each inference takes the next of durations_ms, then 1 ms each."""
    clock = FakeClock()

    def durations():
        for ms in durations_ms:
            yield ms * MS
        while True:
            yield MS

    session = session or FakeSession()
    session.clock, session.durations_ns = clock, durations()
    job = make_job(**{"artifact_sha256": artifact.manifest_sha256} | job)
    return runner.execute(job, artifact, FakeConverter(session, load_ns=load_ms * MS), clock=clock)


def test_phases_are_timed_apart_and_in_order(artifact):
    report = execute(artifact, durations_ms=[50, 9, 8, 7, 6, 5], load_ms=20, warmup_runs=2, runs=3)
    assert (report.load_ns, report.first_ns) == (20 * MS, 50 * MS)
    assert report.warmup_ns == (9 * MS, 8 * MS)
    assert report.samples_ns == (7 * MS, 6 * MS, 5 * MS)
    assert report.flags == ()


def test_phase_goes_on_until_its_least_time(artifact):
    report = execute(artifact, warmup_runs=1, warmup_s=0.005, runs=3, min_s=0.01)
    assert (len(report.warmup_ns), len(report.samples_ns)) == (5, 10)


def test_cap_stops_a_slow_model_and_is_flagged(artifact):
    report = execute(artifact, durations_ms=[400] * 20, warmup_runs=5, runs=5, max_s=1.0)
    assert (len(report.warmup_ns), len(report.samples_ns)) == (3, 3)
    assert report.flags == (Flag.WARMUP_CUT, Flag.RUNS_CUT)


def test_no_warm_up_if_none_is_asked_for(artifact):
    assert execute(artifact, warmup_runs=0, runs=1).warmup_ns == ()


def test_output_of_the_golden_is_within_tolerance(artifact):
    parity = execute(artifact, input="ramp").parity
    assert (parity.golden, parity.max_relative_error, parity.snr_db) == ("ramp", 0.0, None)
    assert parity.within_tolerance is True


def test_batch_repeats_the_golden_and_every_image_is_compared(tmp_path):
    artifact = write_artifact(tmp_path, dynamic_batch=True)
    report = execute(artifact, batch=4, record_outputs=True)
    assert report.outputs[0].shape == (4, 3)
    assert report.parity.within_tolerance is True

    class LastIsWrong(FakeSession):
        def run(self, inputs):
            outputs = super().run(inputs)
            outputs["logits"][-1] *= 2
            return outputs

    assert execute(artifact, batch=4, session=LastIsWrong()).parity.within_tolerance is False


def test_batch_that_an_artifact_does_not_take_is_refused(artifact):
    with pytest.raises(UsageError, match="takes one image at a time, not 2"):
        execute(artifact, batch=2)


def test_first_golden_is_the_default(artifact):
    assert execute(artifact).parity.golden == "noise"


def test_wrong_output_is_reported_with_its_error(artifact):
    report = execute(artifact, session=FakeSession(gain=1.01))
    assert report.parity.max_relative_error == pytest.approx(0.01, rel=1e-4)
    assert report.parity.snr_db == pytest.approx(40, abs=0.01)
    assert report.parity.within_tolerance is False
    assert report.flags == (Flag.WRONG_OUTPUT,)


def test_output_that_is_not_finite_has_no_error_and_fails(artifact):
    report = execute(artifact, session=FakeSession(gain=np.nan))
    assert (report.parity.max_relative_error, report.parity.snr_db) == (None, None)
    assert report.parity.within_tolerance is False


def test_without_a_stated_bound_parity_is_unjudged(tmp_path):
    report = execute(write_artifact(tmp_path, tolerance=Tolerance()), session=FakeSession(gain=2.0))
    assert report.parity.max_relative_error == pytest.approx(1.0)
    assert report.parity.within_tolerance is None
    assert report.flags == ()


def test_session_that_took_another_way_is_flagged(artifact):
    report = execute(artifact, session=FakeSession(accelerator="cpu", threads=4), accelerator="npu", threads=1)
    assert (report.accelerator.asked, report.accelerator.used) == ("npu", "cpu")
    assert (report.threads.asked, report.threads.used) == (1, 4)
    assert report.flags == (Flag.OTHER_ACCELERATOR, Flag.OTHER_THREADS)


def test_runtime_that_hides_its_threads_leaves_them_unknown(artifact):
    report = execute(artifact, session=FakeSession(threads=None))
    assert report.threads.used is None
    assert report.flags == ()


def test_busy_machine_is_flagged(artifact, monkeypatch):
    monkeypatch.setattr(runner, "load_average", lambda: 10_000.0)
    report = execute(artifact)
    assert report.load_average.before == 10_000.0
    assert report.flags == (Flag.LOADED,)


def test_machine_without_load_average_is_no_error(artifact, monkeypatch):
    monkeypatch.setattr(runner, "load_average", lambda: None)
    assert execute(artifact).load_average.after is None


def test_runtime_is_imported_before_the_memory_baseline(artifact, monkeypatch):
    sys.modules.pop("colorsys", None)
    seen = []
    monkeypatch.setattr(runner, "peak_memory_bytes", lambda: seen.append("colorsys" in sys.modules) or 1000 * len(seen))
    memory = execute(artifact).memory
    assert seen == [True, True]
    assert (memory.baseline_bytes, memory.peak_bytes, memory.peak_above_imports_bytes) == (1000, 2000, 1000)


def test_lowering_of_the_manifest_is_the_delegation(artifact):
    delegation = execute(artifact).delegation
    assert (delegation.delegated, delegation.nodes, delegation.regions) == (7, 8, 1)


def test_outputs_are_recorded_only_if_asked_for(artifact):
    assert execute(artifact).outputs is None
    (tensor,) = execute(artifact, record_outputs=True).outputs
    assert tensor.name == "logits"
    assert np.array_equal(tensor.array(), artifact.golden_level(artifact.golden(), "L3"))


def test_session_is_closed_even_if_a_run_fails(artifact):
    session = FakeSession()
    session.clock, session.durations_ns = FakeClock(), iter([MS])
    job = make_job(artifact_sha256=artifact.manifest_sha256)
    with pytest.raises(StopIteration):
        runner.execute(job, artifact, FakeConverter(session), clock=session.clock)
    assert session.closed


def test_artifact_converted_again_is_refused(artifact):
    with pytest.raises(ContractError, match="has changed since the job"):
        execute(artifact, artifact_sha256="f" * 64)


def test_unknown_golden_is_refused(artifact):
    with pytest.raises(UsageError, match="no golden 'cat'"):
        execute(artifact, input="cat")


def test_missing_runtime_names_its_extra(artifact):
    job = make_job(artifact_sha256=artifact.manifest_sha256)
    with pytest.raises(MissingDependency, match=r"edgevit\[fake\]"):
        runner.execute(job, artifact, FakeConverter(runtime_modules=("no_such_runtime",)))


def test_command_line_writes_a_whole_report(artifact, tmp_path, monkeypatch):
    monkeypatch.setattr(runner, "get_converter", lambda name: FakeConverter())
    job = make_job(artifact_sha256=artifact.manifest_sha256, runs=2, warmup_runs=1)
    write_json(tmp_path / "job.json", job.to_json())
    argv = [str(tmp_path / "job.json"), str(tmp_path / "raw_report.json"), "--artifacts", str(tmp_path)]
    assert runner.main(argv) == 0
    report = read_raw_report(tmp_path / "raw_report.json")
    assert isinstance(report.job, Job)
    assert (report.job, len(report.samples_ns)) == (job, 2)


def test_command_line_says_what_is_wrong_in_one_line(tmp_path, capsys):
    assert runner.main([str(tmp_path / "none.json"), str(tmp_path / "raw_report.json")]) == ContractError.exit_code
    assert capsys.readouterr().err.count("\n") == 1
    assert not (tmp_path / "raw_report.json").exists()
