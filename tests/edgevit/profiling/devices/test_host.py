import dataclasses
import json
import sys

import pytest

from edgevit.errors import DeviceError, UsageError
from edgevit.profiling.devices.host import HostDevice, open_device
from edgevit.profiling.devices.host_facts import describe_host, load_average, peak_memory_bytes
from tests.fakes import install_target, make_job, make_report, write_artifact


@pytest.fixture
def installed(tmp_path, monkeypatch):
    """Subprocesses know target "fake"."""
    monkeypatch.setenv("PYTHONPATH", install_target(tmp_path / "site"))


def run(artifact, *, device=None, timeout_s=60, **job):
    job = make_job(artifact=artifact.path.name, artifact_sha256=artifact.manifest_sha256, runs=2, **job)
    return (device or HostDevice()).run(artifact, job, timeout_s)


def runner_saying(code):
    """A device whose runner is this Python code; the job file is sys.argv[1], the report file sys.argv[2]."""
    return HostDevice([sys.executable, "-c", code])


def writing(document):
    return runner_saying(f"import sys; open(sys.argv[2], 'w').write({json.dumps(document)!r})")


@pytest.mark.usefixtures("installed")
def test_real_runner_measures_in_another_process(tmp_path):
    artifact = write_artifact(tmp_path / "shelf")
    report, again = run(artifact, record_outputs=True), run(artifact)
    assert report.token == "token-1"
    assert len(report.samples_ns) == 2
    assert (report.runtime.name, report.runtime.version) == ("fake", "1.2")
    assert report.parity.within_tolerance
    assert report.outputs[0].array().shape == (1, 3)
    if sys.platform == "linux":
        assert 0 < report.memory.baseline_bytes <= report.memory.peak_bytes
    assert report.pid != again.pid
    assert str(tmp_path) not in json.dumps(report.to_json())  # reports are published


@pytest.mark.usefixtures("installed")
def test_crash_names_the_signal(tmp_path):
    with pytest.raises(DeviceError, match="van-fp32-fake did not run, signal SIGSEGV"):
        run(write_artifact(tmp_path, behaviour="crash"))


@pytest.mark.usefixtures("installed")
def test_failure_tells_the_last_line_of_stderr(tmp_path):
    with pytest.raises(DeviceError, match=r"did not run, exit 3: kernel 17 is missing$"):
        run(write_artifact(tmp_path, behaviour="chatter"))


@pytest.mark.usefixtures("installed")
def test_format_without_a_runtime_here_says_so(tmp_path):
    with pytest.raises(DeviceError, match="fake models run on fake phones only"):
        run(write_artifact(tmp_path, behaviour="absent"))


@pytest.mark.usefixtures("installed")
def test_hanging_model_ends_at_the_time_out(tmp_path):
    with pytest.raises(DeviceError, match="did not end within 3 s"):
        run(write_artifact(tmp_path, behaviour="hang"), timeout_s=3)


@pytest.mark.usefixtures("installed")
def test_damaged_artifact_is_not_measured(tmp_path):
    artifact = write_artifact(tmp_path)
    (artifact.path / "model.fake").write_text("{}")
    with pytest.raises(DeviceError, match=r"model\.fake has 2 bytes"):
        run(artifact)


def test_runner_without_a_report_is_an_error(tmp_path):
    with pytest.raises(DeviceError, match="left no report"):
        run(write_artifact(tmp_path), device=runner_saying(""))


@pytest.mark.parametrize("text", ["", '{"schema": "edgevit.raw_report"'])
def test_report_that_is_cut_off_is_an_error(tmp_path, text):
    device = runner_saying(f"import sys; open(sys.argv[2], 'w').write({text!r})")
    with pytest.raises(DeviceError, match=r"left no valid report: .* is not JSON"):
        run(write_artifact(tmp_path), device=device)


def test_incomplete_report_is_an_error(tmp_path):
    document = make_report(make_job()).to_json()
    del document["complete"]
    with pytest.raises(DeviceError, match=r"left no valid report: .*complete"):
        run(write_artifact(tmp_path), device=writing(document))


def test_report_of_another_job_is_an_error(tmp_path):
    with pytest.raises(DeviceError, match="left the report of job stale, not of token-1"):
        run(write_artifact(tmp_path), device=writing(make_report(make_job(token="stale")).to_json()))


def test_host_has_no_address():
    assert isinstance(open_device(""), HostDevice)
    with pytest.raises(UsageError, match="host:box"):
        open_device("box")


def test_facts_of_this_machine_are_known_or_null():
    info = open_device("").describe()
    assert info == describe_host()
    assert info.name
    assert info.cores >= 1
    assert all(value is None or value for value in dataclasses.asdict(info).values())


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_linux_tells_memory_and_load():
    block = b"x" * (64 << 20)
    assert peak_memory_bytes() >= len(block)
    assert load_average() >= 0
