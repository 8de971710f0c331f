import dataclasses
import json

import numpy as np
import pytest

from edgevit.contract.job import TimingSettings
from edgevit.contract.raw_report import Failure, Flag, Memory, Phase
from edgevit.errors import DeviceError, UsageError
from edgevit.profiling import latency
from edgevit.profiling.devices.host import HostDevice
from edgevit.profiling.latency import (
    PARTIAL,
    UNSTABLE,
    Round,
    compare,
    judge,
    profile,
    save_comparison,
    save_profile,
    summarize,
)
from tests.fakes import FakeDevice, install_target, make_job, make_report, write_artifact

MS = 1_000_000


@pytest.fixture
def use(monkeypatch):
    """Make every address mean this device."""
    return lambda device: monkeypatch.setattr(latency, "get_device", lambda address: device)


@pytest.fixture
def pair(tmp_path):
    return write_artifact(tmp_path, "a-fp32-fake"), write_artifact(tmp_path, "b-fp32-fake")


def steady(job, number):
    return (10 * MS,) * job.timing.runs


def slowing_machine(seed, factors):
    """Samples on a machine that slows by a third over 20 calls, with noise per process and per sample."""
    noise = np.random.default_rng(seed)

    def samples_ns(job, number):
        level = 10 * MS * factors[job.artifact] * (1 + number / 60) * noise.lognormal(0, 0.02)
        return tuple(int(ns) for ns in level * noise.lognormal(0, 0.1, job.timing.runs))

    return FakeDevice(samples_ns)


def report_of(samples_ms, **changes):
    samples_ns = tuple(int(ms * MS) for ms in samples_ms)
    return dataclasses.replace(make_report(make_job()), samples_ns=samples_ns, **changes)


def test_statistics_of_known_samples():
    report = summarize(report_of([10.0, 11.0, 12.0, 13.0, 14.0], load_ns=2 * MS, first_ns=30 * MS), "van")
    assert (report.min_ms, report.p50_ms, report.mean_ms) == (10.0, 12.0, 12.0)
    assert report.p90_ms == pytest.approx(13.6)
    assert report.p99_ms == pytest.approx(13.96)
    assert report.std_ms == pytest.approx(np.std([10, 11, 12, 13, 14], ddof=1))
    assert (report.load_ms, report.first_ms, report.load_first_ms) == (2.0, 30.0, 32.0)


def test_what_one_sample_cannot_tell_is_null():
    report = summarize(report_of([10.0]), "van")
    assert (report.std_ms, report.stability, report.peak_memory_bytes) == (None, None, None)
    assert report.valid


def test_memory_is_what_the_model_added():
    assert summarize(report_of([1.0], memory=Memory(100, 130)), "van").peak_memory_bytes == 30


def test_run_that_slows_down_is_not_valid():
    report = summarize(report_of([10.0] * 10 + [10.5] * 10 + [11.0] * 10), "van")
    assert report.flags == (UNSTABLE,)
    assert not report.valid


def test_flags_of_the_device_are_kept():
    assert summarize(report_of([10.0], flags=(Flag.LOADED,)), "van").flags == (Flag.LOADED,)


def test_times_of_outputs_that_were_not_compared_are_not_shown():
    blind = report_of([10.0], parity=None)
    with pytest.raises(DeviceError, match="van has no latency to show: its outputs were not compared"):
        summarize(blind, "van")
    with pytest.raises(DeviceError, match="b has no latency to show"):
        judge([Round("a", report_of([10.0]), blind)], "a", "b")


def test_run_that_ended_early_is_marked_partial():
    ended = report_of([10.0, 10.0], failure=Failure(Phase.SAMPLES, "it crashed"))
    assert summarize(ended, "van").flags == (PARTIAL,)


def test_profiles_of_devices_accelerators_and_threads_lie_side_by_side(tmp_path):
    report = make_report(make_job(accelerator="gpu", threads=4, batch=8))
    path = save_profile(summarize(report, "net-fp32-fake", "ssh:user@board.lan"), tmp_path)
    assert path.name == "net-fp32-fake.ssh-user-board-lan.gpu.t4.batch8.profile.json"


def test_profile_sends_the_job_it_was_asked_for(pair, use):
    device = FakeDevice(steady)
    use(device)
    report = profile(pair[0], threads=2, accelerator="npu", golden="ramp", timing=TimingSettings(runs=7, max_s=20.0))
    (job,) = device.jobs
    assert (job.artifact, job.artifact_sha256) == ("a-fp32-fake", pair[0].manifest_sha256)
    assert (job.threads, job.accelerator, job.input) == (2, "npu", "ramp")
    assert job.timing == TimingSettings(warmup_runs=10, warmup_s=1.0, runs=7, min_s=5.0, max_s=20.0)  # the quick rules
    assert device.timeouts_s[0] > 2 * 20.0
    assert (report.artifact, report.p50_ms) == ("a-fp32-fake", 10.0)


def test_time_out_can_be_chosen(pair, use):
    device = FakeDevice(steady)
    use(device)
    profile(pair[0], timeout_s=9.0)
    assert device.timeouts_s == [9.0]


def test_saved_profile_holds_the_raw_report(pair, use, tmp_path):
    use(FakeDevice(steady))
    report = profile(pair[0])
    path = save_profile(report, tmp_path / "results")
    document = json.loads(path.read_text())
    assert path.name == "a-fp32-fake.host.cpu.t1.profile.json"
    assert document == report.to_json()
    assert document["raw"]["samples_ns"] == [10 * MS] * 50
    assert document["artifact_sha256"] == pair[0].manifest_sha256
    assert document["valid"] is True


def test_rounds_alternate_and_flip_their_order(pair, use):
    device = FakeDevice(steady)
    use(device)
    comparison = compare(*pair, rounds=6)
    assert [job.artifact[0] for job in device.jobs] == list("abbaabbaabba")
    assert [r.first for r in comparison.rounds] == list("ababab")
    assert all(r.a.job.artifact == "a-fp32-fake" and r.b.job.artifact == "b-fp32-fake" for r in comparison.rounds)
    assert len({job.token for job in device.jobs}) == 12


def test_same_speed_on_a_slowing_machine_shows_no_difference(pair, use):
    use(slowing_machine(1, {"a-fp32-fake": 1.0, "b-fp32-fake": 1.0}))
    comparison = compare(*pair)
    assert comparison.ratio.includes(1.0)
    assert comparison.verdict.startswith("no difference shown: ")
    assert comparison.a_spread > 0.2  # the machine moved far more than the interval is wide
    assert comparison.ratio.high - comparison.ratio.low < 0.1


def test_a_fifth_less_on_a_slowing_machine_is_found(pair, use):
    use(slowing_machine(1, {"a-fp32-fake": 0.8, "b-fp32-fake": 1.0}))
    comparison = compare(*pair)
    assert comparison.ratio.high < 1.0
    assert comparison.ratio.includes(0.8)
    assert comparison.verdict.startswith("a-fp32-fake is 0.8")
    assert comparison.a_p50_ms < comparison.b_p50_ms


def test_too_few_rounds_are_refused_before_anything_runs(pair, use):
    device = FakeDevice(steady)
    use(device)
    with pytest.raises(UsageError, match="5 rounds cannot"):
        compare(*pair, rounds=5)
    assert device.jobs == []


def test_flags_are_counted_over_all_processes():
    flagged, clean = report_of([1.0], flags=(Flag.LOADED,)), report_of([1.0])
    comparison = judge([Round("a", flagged, clean), Round("b", flagged, flagged)], "a", "b")
    assert comparison.flags == ("load average above cores (3 of 4 processes)",)


def test_saved_comparison_keeps_every_raw_report(pair, use, tmp_path):
    use(FakeDevice(steady))
    comparison = compare(*pair, rounds=6, seed=4)
    path = save_comparison(comparison, tmp_path / "results")
    document = json.loads(path.read_text())
    assert path.name == "a-fp32-fake--vs--b-fp32-fake.compare.json"
    assert document == comparison.to_json()
    assert (document["ratio"], document["low"], document["high"], document["seed"]) == (1.0, 1.0, 1.0, 4)
    assert [r["first"] for r in document["rounds"]] == list("ababab")
    assert document["rounds"][0]["a"]["schema"] == "edgevit.raw_report"


def test_real_rounds_use_a_fresh_process_each(tmp_path, use, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", install_target(tmp_path / "site"))
    use(HostDevice())
    artifact = write_artifact(tmp_path / "shelf")
    comparison = compare(artifact, artifact, rounds=6, timing=TimingSettings(1, 0.0, 3, 0.0))
    order = [report for r in comparison.rounds for report in ((r.a, r.b) if r.first == "a" else (r.b, r.a))]
    assert len({report.pid for report in order}) == 12
    assert [report.started_utc for report in order] == sorted(report.started_utc for report in order)
    assert all(len(report.samples_ns) == 3 for report in order)


def test_format_that_cannot_run_here_stops_the_comparison(tmp_path, use, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", install_target(tmp_path / "site"))
    use(HostDevice())
    able, unable = write_artifact(tmp_path, "a-fake"), write_artifact(tmp_path, "b-fake", behaviour="absent")
    with pytest.raises(DeviceError, match="b-fake did not run, exit 6: fake models run on fake phones only"):
        compare(able, unable, timing=TimingSettings(min_s=0.0, warmup_s=0.0))
