import dataclasses
import json

import pytest
import typer
from typer.testing import CliRunner

from edgevit.cli.profile import describe_comparison, profile, profile_table
from edgevit.contract.raw_report import Delegation, Flag, Memory, OutputParity
from edgevit.errors import UsageError
from edgevit.profiling import latency
from edgevit.profiling.latency import Round, judge, summarize
from tests.fakes import FakeDevice, make_job, make_report, write_artifact

MS = 1_000_000


@pytest.fixture
def device(monkeypatch):
    fake = FakeDevice(lambda job, number: (10 * MS,) * job.timing.runs)
    monkeypatch.setattr(latency, "get_device", lambda address: fake)
    return fake


@pytest.fixture
def invoke():
    """Run the command; errors pass through, as they do to edgevit.cli.main."""
    app = typer.Typer()
    app.command()(profile)

    def run(*argv):
        result = CliRunner().invoke(app, [str(part) for part in argv])
        if result.exception and not isinstance(result.exception, SystemExit):
            raise result.exception
        return result

    return run


def test_profiles_are_saved_beside_the_artifacts(tmp_path, device, invoke):
    paths = [write_artifact(tmp_path, name).path for name in ("a-fake", "b-fake")]
    table = invoke(*paths, "--threads", 2).stdout.splitlines()
    assert [line.split()[0] for line in table] == ["artifact", "a-fake", "b-fake"]
    assert [(job.timing.runs, job.threads) for job in device.jobs] == [(50, 2), (50, 2)]
    assert sorted(p.name for p in (tmp_path / "results").iterdir()) == [
        "a-fake.host.cpu.t2.profile.json",
        "b-fake.host.cpu.t2.profile.json",
    ]


def test_comparison_is_saved_where_asked_and_gives_its_verdict(tmp_path, device, invoke):
    paths = [write_artifact(tmp_path, name).path for name in ("a-fake", "b-fake")]
    result = invoke("--compare", *paths, "--rounds", 6, "--out", tmp_path / "out")
    assert "no difference shown: a-fake is 1x of b-fake [1, 1]" in result.stdout
    assert [job.timing.runs for job in device.jobs] == [15] * 12
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["a-fake--vs--b-fake.compare.json"]


def test_each_batch_is_a_row_and_a_file_with_its_images_per_second(tmp_path, device, invoke):
    path = write_artifact(tmp_path, "a-fake", dynamic_batch=True).path
    rows = [line.split() for line in invoke(path, "--batch", 1, "--batch", 8).stdout.splitlines()]
    assert [(row[1], row[7]) for row in rows[1:]] == [("1", "100.0"), ("8", "800.0")]
    results = tmp_path / "results"
    assert sorted(p.name for p in results.iterdir()) == [
        "a-fake.host.cpu.t1.batch8.profile.json",
        "a-fake.host.cpu.t1.profile.json",
    ]
    assert json.loads((results / "a-fake.host.cpu.t1.batch8.profile.json").read_text())["images_per_s"] == 800
    with pytest.raises(UsageError, match="takes one --batch, not 2"):
        invoke(path, path, "--compare", "--batch", 1, "--batch", 8)
    with pytest.raises(UsageError, match="one image at a time"):
        invoke(write_artifact(tmp_path, "b-fake").path, "--batch", 2)


def test_json_prints_one_document(tmp_path, device, invoke):
    path = write_artifact(tmp_path).path
    document = json.loads(invoke(path, "--json").stdout)
    assert [entry["artifact"] for entry in document["profiles"]] == ["van-fp32-fake"]
    assert json.loads(invoke(path, path, "--compare", "--json").stdout)["ratio"] == 1.0


def test_comparing_one_artifact_is_a_usage_error(tmp_path, device, invoke):
    with pytest.raises(UsageError, match="two artifacts, not 1"):
        invoke(write_artifact(tmp_path).path, "--compare")
    assert device.jobs == []


def test_table_is_aligned_and_says_what_is_unknown():
    known = dataclasses.replace(
        make_report(make_job()),
        memory=Memory(1 << 20, 3 << 20),
        delegation=Delegation(7, 8, 1),
        flags=(Flag.LOADED,),
        parity=OutputParity("noise", 0.25, 12.0, within_tolerance=False),
    )
    table = profile_table([summarize(make_report(make_job()), "a"), summarize(known, "longer")])
    header, first, second, *notes = table.splitlines()
    assert header.index("p50 ms") + len("p50 ms") == first.index("1.10") + len("1.10")
    assert header.index("parity") == first.index("ok 0.0e+00") == second.index("differs")
    assert first.split() == ["a", "1", "2.00", "3.00", "1.10", "1.18", "1.20", "909.1", "-", "-", "ok", "0.0e+00"]
    assert second.split()[8:] == ["2.0", "7/8", "differs", "2.5e-01"]
    assert "longer: load average above cores" in notes


def test_comparison_shows_how_restless_the_machine_was():
    fast, slow = make_report(make_job()), dataclasses.replace(make_report(make_job()), samples_ns=(2_200_000,))
    text = describe_comparison(judge([Round("a", fast, slow), Round("b", fast, fast)], "a", "b"))
    assert text.splitlines()[2].split() == ["b", "1.65", "67%"]
