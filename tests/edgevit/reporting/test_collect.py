import csv
import dataclasses
import json
import re
import shutil
import sys
from html.parser import HTMLParser
from pathlib import Path

import plotly.graph_objects
import pytest
from typer import Typer
from typer.testing import CliRunner

from edgevit.artifacts.artifact import load_artifact
from edgevit.cli.report import report as report_command
from edgevit.contract.manifest import Executed, ModelFacts, NotExecuted, Parity, Tolerance
from edgevit.errors import MissingDependency, UsageError
from edgevit.infra.files import sha256_file
from edgevit.quantization.model_qparams import QParams
from edgevit.reporting.collect import collect, report
from edgevit.reporting.figures import figures
from edgevit.reporting.html import embed_json, html
from edgevit.reporting.model import ArtifactRow, NoteKind, ReportData, Status
from edgevit.reporting.tables import ABSENT, Marks, csv_text, latency, markdown, summary
from edgevit.spec import Task
from edgevit.verification.error_breakdown import StageError
from edgevit.verification.layer_values import Layer
from edgevit.verification.numeric_debugger import ErrorSize, LayerError
from tests.edgevit.reporting.report_shelf import (
    COREML,
    EXECUTORCH,
    NO_RUNTIME,
    TFLITE,
    build_shelf,
    edit_json,
    write_artifact,
    write_comparison,
    write_debug,
    write_profile,
    write_verification,
)

HOSTILE = "<script>alert(1)</script>|`x`"


@pytest.fixture
def shelf(tmp_path: Path) -> Path:
    return build_shelf(tmp_path / "shelf")


def _row(folder: Path, name: str) -> ArtifactRow:
    return next(row for row in collect(folder).artifacts if row.name == name)


def _notes(folder: Path) -> list[tuple[NoteKind, str]]:
    return [(note.kind, note.subject) for note in collect(folder).notes]


def _tables(data: ReportData) -> list[str]:
    return [block for block in markdown(data).split("\n\n") if block.startswith("|")]


def _columns(table: str) -> set[int]:
    """The column counts of a Markdown table's lines; an escaped bar is text."""
    return {len(re.findall(r"(?<!\\)\|", line)) - 1 for line in table.splitlines()}


class _Tags(HTMLParser):
    """Every start tag with its attributes, and the text outside scripts and styles."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self._raw = False
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self._raw = tag in ("script", "style")

    def handle_endtag(self, tag: str) -> None:
        self._raw = False

    def handle_data(self, data: str) -> None:
        if not self._raw:
            self.text += data


def test_all_four_formats_are_written_and_returned_in_order(shelf: Path, tmp_path: Path) -> None:
    paths = report(shelf, out=tmp_path / "out")
    assert [path.name for path in paths] == ["report.html", "report.md", "report.csv", "report.json"]
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == sorted(path.name for path in paths)


def test_numbers_in_report_json_are_those_of_the_files_they_name(shelf: Path) -> None:
    (path,) = report(shelf, formats=["json"])
    document = json.loads(path.read_text())
    row = next(row for row in document["artifacts"] if row["name"] == EXECUTORCH)
    (latency,) = row["latencies"]
    for source in (row["agreement"]["source"], row["accuracy"]["source"], latency["source"]):
        assert sha256_file(shelf / source["file"]) == source["sha256"]
    profiled = json.loads((shelf / latency["source"]["file"]).read_text())
    assert {key: profiled[key] for key in ("p50_ms", "p99_ms", "load_ms")} == {
        key: latency[key] for key in ("p50_ms", "p99_ms", "load_ms")
    }
    assert latency["samples_ns"] == profiled["raw"]["samples_ns"]
    verified = json.loads((shelf / row["agreement"]["source"]["file"]).read_text())
    assert row["agreement"]["max_relative_error"] == verified["parity"]["max_relative_error"]
    assert row["accuracy"]["drop_percentage_points"] == pytest.approx(0.2)
    assert document["comparisons"][0]["ratio"] == pytest.approx(0.87, abs=0.01)


def test_runs_of_several_batches_are_rows_with_their_rates_the_smallest_first(shelf: Path) -> None:
    source = next((shelf / "results").glob(f"{EXECUTORCH}.host.cpu.t1.profile.json"))
    document = json.loads(source.read_text())
    document["raw"]["job"]["batch"] = 8
    source.with_name(f"{EXECUTORCH}.batch8.profile.json").write_text(json.dumps(document))
    data = collect(shelf)
    runs = next(row for row in data.artifacts if row.name == EXECUTORCH).latencies
    assert [run.batch for run in runs] == [1, 8]
    assert runs[1].images_per_s == pytest.approx(8 * runs[0].images_per_s)
    rates = next(figure for figure in figures(data) if figure.name == "rate")
    assert "batch 8" in rates.reading
    rows = [[cell.text for cell in row] for row in latency(data).rows if row[0].text == EXECUTORCH]
    assert [row[5] for row in rows] == ["1", "8"]
    assert "rate" not in {figure.name for figure in figures(without_batches(data))}


def without_batches(data):
    """The same report without runs of several images."""
    rows = (
        dataclasses.replace(row, latencies=tuple(run for run in row.latencies if run.batch == 1))
        for row in data.artifacts
    )
    return dataclasses.replace(data, artifacts=tuple(rows))


def test_second_report_over_the_first_reads_the_same_data(shelf: Path) -> None:
    first = collect(shelf).to_json() | {"generated_utc": ""}
    report(shelf)
    assert collect(shelf).to_json() | {"generated_utc": ""} == first


def test_verdict_claims_only_what_ran(shelf: Path) -> None:
    assert collect(shelf).verdict == "3 artifacts: 2 agree with the checkpoint, 1 not executed here."
    shutil.rmtree(shelf / COREML)
    assert collect(shelf).verdict == "2 artifacts, all agree with the checkpoint."


def test_unexecuted_artifact_has_its_reason_and_no_numbers(shelf: Path) -> None:
    row = _row(shelf, COREML)
    assert row.agreement.status is Status.NOT_EXECUTED
    assert row.agreement.reason == NO_RUNTIME
    assert (row.agreement.cosine, row.accuracy.artifact, row.accuracy.drop_percentage_points) == (None, None, None)
    table = summary(collect(shelf))
    (cell,) = [row[-1] for row in table.rows if row[0].text == COREML]
    assert (cell.text, cell.why) == ("not executed here [1]", NO_RUNTIME)
    assert table.notes == (("[1]", NO_RUNTIME),)
    assert f"<dt>[1]</dt><dd>{NO_RUNTIME}</dd>" in html(collect(shelf))


def test_drop_of_an_int8_artifact_is_from_the_float_network(tmp_path: Path) -> None:
    artifact = write_artifact(tmp_path, EXECUTORCH)
    write_verification(artifact, accuracy=0.984, float_network=0.994)  # as its int8 checkpoint, below the float network
    data = collect(tmp_path)
    (row,) = data.artifacts
    assert (row.accuracy.checkpoint, row.accuracy.artifact) == (0.984, 0.984)
    assert row.accuracy.drop_percentage_points == pytest.approx(1.0)
    assert [cell.text for cell in summary(data).rows[0][4:8]] == [
        "99.40 %", "98.40 % top-1", "98.40 %", "+1.00",
    ]  # fmt: skip


def test_drop_is_empty_and_says_why_where_the_float_network_was_not_scored(tmp_path: Path) -> None:
    write_verification(write_artifact(tmp_path, EXECUTORCH), float_network=None)
    data = collect(tmp_path)
    assert data.artifacts[0].accuracy.drop_percentage_points is None
    trained, checkpoint, _, drop = summary(data).rows[0][4:8]
    assert checkpoint.text == "98.40 % top-1"
    assert {trained.text, drop.text} == {ABSENT}
    assert "the float network was not scored" in drop.why


def test_long_flags_are_marks_with_the_explanation_below_the_table(shelf: Path) -> None:
    table = latency(collect(shelf))
    flags = {row[0].text: row[14].text for row in table.rows if row[3].text != ABSENT}
    assert flags == {EXECUTORCH: "none", TFLITE: "[1]"}
    assert table.notes == (("[1]", "load average above cores"),)
    assert "- \\[1\\] load average above cores" in markdown(collect(shelf))


def test_the_same_text_has_the_same_mark() -> None:
    marks = Marks()
    assert [marks.of("slow", "busy"), marks.of("busy"), marks.of("hot", "slow")] == ["[1] [2]", "[2]", "[3] [1]"]
    assert marks.notes() == (("[1]", "slow"), ("[2]", "busy"), ("[3]", "hot"))


def test_device_golden_counts_where_the_verifying_machine_could_not_run(shelf: Path) -> None:
    write_profile(load_artifact(shelf / COREML), "coreml", p50_ms=1.1)
    row = _row(shelf, COREML)
    assert row.agreement.status is Status.AGREES
    assert row.agreement.samples == 1
    assert row.agreement.source.file.endswith(f"{COREML}.host.cpu.t1.profile.json")
    assert len(row.latencies) == 1


@pytest.mark.parametrize(
    ("parity", "status"),
    [
        (Executed("r", 8, 1e-3, 2e-4, 80.0, 1.0, 1.0), Status.DIFFERS),
        (Executed("r", 8, 1e-3, 1e-6, 59.0, 1.0, 1.0), Status.DIFFERS),
        (Executed("r", 8, None, None, 80.0, 1.0, 1.0), Status.DIFFERS),
        (Executed("r", 8, 0.0, 0.0, None, 1.0, 1.0), Status.AGREES),
    ],
)
def test_status_follows_the_bounds_of_the_manifest(tmp_path: Path, parity: Parity, status: Status) -> None:
    write_verification(write_artifact(tmp_path, EXECUTORCH), parity=parity)
    assert _row(tmp_path, EXECUTORCH).agreement.status is status


@pytest.mark.parametrize("hour", ["11", "13"])
def test_parity_measured_alone_leaves_the_accuracy(tmp_path: Path, hour: str) -> None:
    artifact = write_artifact(tmp_path, EXECUTORCH)
    write_verification(artifact)
    parity = Executed("r", 2, 1e-3, 2e-6, 99.0, 1.0, 1.0)
    write_verification(artifact, parity=parity, kind="verify", started_utc=f"2026-11-20T{hour}:00:00Z")
    row = _row(tmp_path, EXECUTORCH)
    assert row.accuracy.artifact == 0.982
    assert (row.agreement.snr_db == 99.0) is (hour == "13")  # the newer parity wins


def test_compressed_weights_are_part_of_the_precision(tmp_path: Path) -> None:
    write_verification(write_artifact(tmp_path, EXECUTORCH, compression="palette6"))
    assert _row(tmp_path, EXECUTORCH).precision == "fp32, weights palette6"
    assert "fp32, weights palette6" in markdown(collect(tmp_path))


def test_without_a_stated_bound_nothing_is_said_to_agree(tmp_path: Path) -> None:
    write_verification(write_artifact(tmp_path, EXECUTORCH, tolerance=Tolerance()))
    data = collect(tmp_path)
    assert data.artifacts[0].agreement.status is Status.UNJUDGED
    assert data.verdict == "1 artifact: 1 measured without a stated bound."


def test_results_of_another_build_are_dropped_and_named_stale(shelf: Path) -> None:
    manifest = shelf / EXECUTORCH / "manifest.json"
    edit_json(manifest, checks={"converted": "again"})
    row = _row(shelf, EXECUTORCH)
    assert row.latencies == ()
    assert row.accuracy is None
    assert row.agreement.source.file == f"{EXECUTORCH}/manifest.json"
    stale = {subject for kind, subject in _notes(shelf) if kind is NoteKind.STALE}
    assert stale == {
        f"results/{EXECUTORCH}.evaluate.json",
        f"results/{EXECUTORCH}.host.cpu.t1.profile.json",
        f"results/{EXECUTORCH}--vs--{TFLITE}.compare.json",
    }


def test_latency_is_withheld_until_the_build_was_compared_with_the_checkpoint(tmp_path: Path) -> None:
    never_ran = NotExecuted("")
    fast = write_artifact(tmp_path, EXECUTORCH, parity=never_ran)
    slow = write_artifact(tmp_path, TFLITE)
    write_profile(fast, "executorch", p50_ms=20.0)
    write_comparison(fast, slow)
    data = collect(tmp_path)
    assert data.artifacts[0].latencies == ()
    assert data.comparisons == ()
    assert [note.subject for note in data.notes if note.kind is NoteKind.WITHHELD] == [
        f"results/{EXECUTORCH}.host.cpu.t1.profile.json",
        f"results/{EXECUTORCH}--vs--{TFLITE}.compare.json",
    ]
    assert "20.0 ms" not in markdown(data)
    assert f"edgevit verify {tmp_path / EXECUTORCH}" in [step.command for step in data.next_commands]


@pytest.mark.parametrize(
    "wrong",
    [
        {"p50_ms": "fast"}, {"p50_ms": "nan"}, {"p50_ms": 0}, {"p50_ms": True}, {"p50_ms": 1e300}, {"raw": []},
        {"raw": None}, {"artifact_sha256": 5}, {"artifact_sha256": {}}, {"peak_memory_bytes": "x"}, {"std_ms": []},
    ],
)  # fmt: skip
def test_result_with_something_else_for_a_number_becomes_a_note(shelf: Path, wrong: dict) -> None:
    path = shelf / "results" / f"{EXECUTORCH}.host.cpu.t1.profile.json"
    edit_json(path, **wrong)
    assert (NoteKind.UNREADABLE, f"results/{path.name}") in _notes(shelf)


@pytest.mark.parametrize("content", ["{", "[]", '{"schema": "edgevit.profile"}', '{"p50_ms": NaN}', '{"schema": 1}'])
def test_unreadable_result_becomes_a_note(shelf: Path, content: str) -> None:
    path = shelf / "results" / f"{EXECUTORCH}.host.cpu.t1.profile.json"
    path.write_text(content)
    assert (NoteKind.UNREADABLE, f"results/{path.name}") in _notes(shelf)


def test_result_of_unknown_kind_becomes_a_note(shelf: Path) -> None:
    (shelf / "results" / "mine.json").write_text("{}")
    assert (NoteKind.UNREADABLE, "results/mine.json") in _notes(shelf)


def test_artifact_with_a_changed_file_is_left_out_and_named(shelf: Path) -> None:
    (shelf / TFLITE / "labels.txt").write_text("other")
    assert (NoteKind.BROKEN, TFLITE) in _notes(shelf)
    assert TFLITE not in [row.name for row in collect(shelf).artifacts]


def test_missing_profile_is_named_with_its_command(tmp_path: Path) -> None:
    write_artifact(tmp_path, EXECUTORCH)
    data = collect(tmp_path)
    assert [(note.kind, note.subject) for note in data.notes] == [(NoteKind.MISSING, EXECUTORCH)]
    assert data.next_commands[0].command == f"edgevit profile {tmp_path / EXECUTORCH}"
    assert csv_text(data).count("\n") == 2


def test_folder_without_artifacts_is_a_usage_error(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="holds no whole artifact"):
        report(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_unknown_format_is_a_usage_error_before_anything_is_written(shelf: Path) -> None:
    with pytest.raises(UsageError, match="htm"):
        report(shelf, formats=["json", "htm"])
    assert not (shelf / "report.json").exists()


def test_page_fetches_nothing_and_runs_only_its_own_scripts(shelf: Path) -> None:
    page = html(collect(shelf))
    tags = _Tags(page).tags
    links = [
        value
        for _, attributes in tags
        for key, value in attributes.items()
        if key in ("src", "href", "srcset", "action", "data", "poster", "ping")
    ]
    assert links
    assert all(link.startswith("#") or link == "data:," for link in links)
    style = re.search(r"<style>(.*?)</style>", page, re.DOTALL)[1]
    assert "url(" not in style
    assert "@import" not in style
    policy = next(attributes["content"] for _, attributes in tags if attributes.get("http-equiv"))
    assert policy.startswith("default-src 'none'; script-src 'sha256-")
    assert "unsafe-eval" not in policy


def test_hostile_names_are_text_in_every_format(tmp_path: Path) -> None:
    facts = ModelFacts(HOSTILE, Task.CLASSIFY, "edge", 2, 1, 1, HOSTILE)
    reason = NotExecuted(HOSTILE, HOSTILE)
    checks = {HOSTILE: HOSTILE}
    artifact = write_artifact(tmp_path, COREML, model=facts, target=HOSTILE, parity=reason, checks=checks)
    write_profile(artifact, HOSTILE, p50_ms=1.0, flags=(HOSTILE,))
    write_artifact(tmp_path, TFLITE, parity=reason)
    data = collect(tmp_path)
    page = _Tags(html(data))
    assert len([tag for tag, _ in page.tags if tag == "script"]) == 3
    assert HOSTILE in page.text
    assert "<script" not in markdown(data)
    assert all(_columns(table) == {len(table.splitlines()[1].strip("|").split("|"))} for table in _tables(data))
    assert next(csv.DictReader(csv_text(data).splitlines()))["target"] == HOSTILE


def test_embedded_json_cannot_close_its_script() -> None:
    value = {"name": "</script><!--&"}
    embedded = embed_json(value)
    assert not set("<>&") & set(embedded)
    assert json.loads(embedded) == value


def test_spreadsheet_formulas_are_disarmed(tmp_path: Path) -> None:
    write_artifact(tmp_path, TFLITE, target="=1+1")
    assert next(csv.DictReader(csv_text(collect(tmp_path)).splitlines()))["target"] == "'=1+1"


def test_figures_are_valid_plotly_and_hold_the_raw_samples(shelf: Path) -> None:
    data = collect(shelf)
    drawn = {figure.name: figure for figure in figures(data)}
    times = ["load_ms", "first_ms", "p50_ms"]
    assert list(drawn) == ["latency", *times, "size", "ratio", "training-loss", "training-top-1"]
    for figure in drawn.values():
        plotly.graph_objects.Figure({"data": figure.data, "layout": figure.layout})
    samples_ns = data.artifacts[1].latencies[0].samples_ns
    assert drawn["latency"].data[0]["x"] == [sample / 1e6 for sample in samples_ns]
    assert drawn["training-top-1"].data[0]["y"][-1] == pytest.approx(100 * data.artifacts[0].training.curve[-1]["top1"])


def test_an_artifact_keeps_its_colour_across_figures(shelf: Path) -> None:
    drawn = {figure.name: [trace["meta"] for trace in figure.data] for figure in figures(collect(shelf))}
    assert drawn["size"] == [0, 1, 2]
    assert drawn["latency"] == drawn["p50_ms"] == [1, 2]


def test_markdown_tables_are_rectangular(shelf: Path) -> None:
    text, tables = markdown(collect(shelf)), _tables(collect(shelf))
    assert len(tables) == 4
    assert all(len(_columns(table)) == 1 for table in tables)
    assert "| 21.4 ms |" in text
    assert "| 98.40 % | 98.40 % top-1 | 98.20 % | +0.20 |" in text


def test_csv_has_units_in_its_columns_and_nothing_where_nothing_was_measured(shelf: Path) -> None:
    rows = {row["artifact"]: row for row in csv.DictReader(csv_text(collect(shelf)).splitlines())}
    profiled = json.loads((shelf / "results" / f"{TFLITE}.host.cpu.t1.profile.json").read_text())
    assert float(rows[TFLITE]["p50_ms"]) == profiled["p50_ms"]
    assert rows[TFLITE]["size_bytes"] == "1651000"
    assert {rows[COREML][key] for key in ("p50_ms", "cosine", "artifact_fraction", "drop_percentage_points")} == {""}


def test_without_plotly_the_page_names_the_extra_and_the_tables_still_work(
    shelf: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "plotly.offline", None)
    with pytest.raises(MissingDependency) as raised:
        report(shelf, formats=["html"])
    assert raised.value.fix == 'pip install "edgevit[report]"'
    assert len(report(shelf, formats=["md", "csv", "json"])) == 3


def test_command_prints_the_paths_it_wrote(shelf: Path) -> None:
    app = Typer()
    app.command()(report_command)
    done = CliRunner().invoke(app, [str(shelf), "--format", "md", "--format", "csv"])
    assert done.exit_code == 0
    assert done.stdout.splitlines() == [str(shelf / "report.md"), str(shelf / "report.csv")]
    as_json = CliRunner().invoke(app, [str(shelf), "--format", "md", "--json"])
    assert json.loads(as_json.stdout)["paths"] == [str(shelf / "report.md")]


def test_stages_and_worst_layers_are_shown_for_the_build_they_measured(tmp_path):
    artifact = write_artifact(tmp_path, EXECUTORCH)
    steps = (
        StageError("float network", "top-1", 0.984),
        StageError("artifact", "top-1", 0.982, 0.998, 34.56, 0.9998, 0.02),
    )
    write_verification(artifact, error_breakdown=steps, started_utc="2026-11-20T10:00:00Z")
    write_verification(artifact, kind="verify", started_utc="2026-11-20T11:00:00Z")  # takes no breakdown back
    layer = Layer("quantize_per_tensor_5", "conv2d_2", "conv2d", "block1.0.attn", QParams(0.5, 3))
    quiet = dataclasses.replace(layer, node="quantize_per_tensor_6", place="block1.1")
    accumulated = ErrorSize(31.25, 0.5, 0.2)
    write_debug(
        artifact,
        (
            LayerError(layer, ErrorSize(43.75, 0.5, 0.125), accumulated),
            LayerError(quiet, ErrorSize(None, 0, 0), accumulated),
        ),
    )
    data = collect(tmp_path)
    (row,) = data.artifacts
    assert [step.name for step in row.error_breakdown] == ["float network", "artifact"]
    assert [layer.place for layer in row.worst_layers] == ["block1.0.attn"]
    text = markdown(data)
    assert "34.6 dB" in text
    assert "block1.0.attn quantize_per_tensor_5" in text
    assert "43.8 dB" in text
    assert "12.50 %" in text
    assert "block1.1" not in text
    assert not [note for note in data.notes if note.kind is NoteKind.UNREADABLE]


def test_worst_layers_of_another_build_are_stale(tmp_path):
    artifact = write_artifact(tmp_path, EXECUTORCH)
    path = write_debug(artifact, ())
    edit_json(path, artifact_sha256="0" * 64)
    data = collect(tmp_path)
    assert any(note.kind is NoteKind.STALE and note.subject.endswith(".debug.json") for note in data.notes)
