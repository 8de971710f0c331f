"""Every command is one public function: the same keywords and defaults, the same documents and files."""

from __future__ import annotations

import dataclasses
import importlib
import inspect
import json
import typing
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from typer.models import ArgumentInfo, OptionInfo

import edgevit
from edgevit import environment
from edgevit.artifacts.artifact import Artifact
from edgevit.checkpoints.checkpoint import read_checkpoint
from edgevit.cli.main import COMMANDS
from edgevit.data.synthetic_images import sample_images
from edgevit.infra.files import list_files
from edgevit.profiling import latency
from tests.edgevit.cli.test_main import run
from tests.edgevit.mil.packages import small
from tests.edgevit.user_folder import write_images, write_network
from tests.fakes import FakeDevice, write_artifact
from tests.tiny import SIZE, TinyClassifier

LABELS = ("even", "odd")

# The public function of a command, where it has another name. `list` would hide Python's own.
FUNCTIONS = {"list": "available"}
# The keyword of an option, where it has another name: the command takes several words, or words without units.
KEYWORDS = {
    "artifacts": "artifact",
    "classes": "num_classes",
    "golden": "goldens",
    "option": "options",
    "timeout": "timeout_s",
}
OFF = {"no_cache": "cache", "no_deploy": "deploy"}  # a flag that turns a keyword off
PRINTING = {"convert": {"explain"}, "debug": {"top"}}  # beside --json: how the result is shown
# Objects that no word can name, whether to raise at once, and how long to time beside the runs.
TIMING = {"timing", "golden", "timeout_s"}
PYTHON_ONLY = {
    "convert": {"spec"},
    "train": {"spec"},
    "verify": {"strict"},
    "evaluate": {"strict"},
    "qparams": {"strict"},
    "lint": {"strict"},
    "profile": TIMING,
    "compare": TIMING | {"seed"},
}


def _options(command: str) -> dict[str, Any]:
    """The default of each argument and option of a command, by the name of its parameter."""
    function = getattr(importlib.import_module(f"edgevit.cli.{command}"), command)
    hints = typing.get_type_hints(function, include_extras=True)
    options = {}
    for name, parameter in inspect.signature(function).parameters.items():
        (declared,) = hints[name].__metadata__
        assert isinstance(declared, ArgumentInfo | OptionInfo)
        options[name] = parameter.default
    return options


def _same(option: Any, keyword: Any) -> bool:
    """Whether two defaults mean the same: a path is its text, and none of several is None."""
    plain = str(option) if isinstance(option, Path) else option
    return plain == keyword or (option is None and keyword == ())


@pytest.mark.parametrize("command", COMMANDS)
def test_every_option_is_a_keyword_with_the_same_default(command):
    keywords = inspect.signature(getattr(edgevit, FUNCTIONS.get(command, command))).parameters
    options = _options(command)
    for option in {"as_json"} | PRINTING.get(command, set()):
        options.pop(option, None)
    if command == "profile":
        options = _of_one_profile(options)
    taken = set()
    for option, default in options.items():
        name = option if option in keywords else OFF.get(option, KEYWORDS.get(option, option))
        taken.add(name)
        assert name in keywords, f"--{option}: {list(keywords)}"
        wanted = keywords[name].default
        assert (default, wanted) == (False, True) if option in OFF else _same(default, wanted), option
    assert set(keywords) - taken == PYTHON_ONLY.get(command, set())


def _of_one_profile(options: dict[str, Any]) -> dict[str, Any]:
    """The options of `profile` without --compare; what is left out there is the function's own default."""
    own = inspect.signature(edgevit.profile).parameters
    assert options["batch"] is None
    kept = {option: default for option, default in options.items() if option not in ("compare", "rounds")}
    return kept | {"batch": own["batch"].default}


def test_every_option_of_profile_compare_is_a_keyword_with_the_same_default():
    keywords = inspect.signature(edgevit.compare).parameters
    options = {option: default for option, default in _options("profile").items() if option in keywords}
    for option, default in options.items():
        assert default is None or _same(default, keywords[option].default), option
    assert set(_options("profile")) - set(options) == {"artifacts", "compare", "as_json"}
    assert set(keywords) - set(options) == {"a", "b"} | PYTHON_ONLY["compare"]


@pytest.fixture(scope="module")
def line(tmp_path_factory) -> Path:
    """A folder with net.py, a float checkpoint of it, and labelled images in data/."""
    folder = tmp_path_factory.mktemp("line")
    write_network(folder, TinyClassifier, LABELS)
    write_images(folder, LABELS, train=24, test=8)
    return folder


@pytest.fixture(scope="module")
def model(line) -> str:
    return f"{line / 'net.py'}:tiny"


@pytest.fixture(scope="module")
def int8(line, model) -> Path:
    """The int8 checkpoint that post-training quantization makes of the float one."""
    out = line / "int8.pt"
    edgevit.quantize(model, weights=line / "float.pt", data=str(line / "data"), out=out, samples=16)
    return out


@pytest.fixture(scope="module")
def artifact(line, model, int8) -> Artifact:
    """The int8 checkpoint as a file."""
    pytest.importorskip("ai_edge_litert", reason="ai-edge-litert is not installed")
    return edgevit.convert(model, weights=int8, precision="int8", target="tflite", out=line / "artifacts")


# Times, processes, and where files are.
CHANGING = {"seconds", "conversion_s", "started_utc", "created_utc", "token", "pid", "checkpoint", "path"}


def _masked(document: Any) -> Any:
    """A document without what differs from run to run, as JSON has it."""
    if isinstance(document, dict):
        return {key: _masked(value) for key, value in document.items() if key not in CHANGING}
    if isinstance(document, list | tuple):
        return [_masked(value) for value in document]
    return str(document) if isinstance(document, Path) else document


def _printed(capsys, *arguments: object) -> Any:
    """The document that a command prints."""
    code, out, error = run(capsys, *arguments, "--json")
    assert code == 0, error
    return _masked(json.loads(out))


def _same_files(one: Path, other: Path) -> None:
    """Raise unless two folders hold the same files: documents without what differs from run to run, others bytewise."""
    names = list_files(one)
    assert names
    assert list_files(other) == names
    for name in names:
        if name.suffix == ".json":
            first, second = (json.loads((folder / name).read_text()) for folder in (one, other))
            assert _masked(first) == _masked(second), name
        else:
            assert (one / name).read_bytes() == (other / name).read_bytes(), name


def test_list_info_and_doctor(capsys, monkeypatch):
    # Importing every runtime twice would show no more.
    monkeypatch.setattr(environment.process, "run", lambda *given, **limits: environment.process.Completed(0, "", ""))
    assert _printed(capsys, "list") == _masked(edgevit.available().to_json())
    shown = _printed(capsys, "info", "van_b0", "--classes", 10, "--input-size", 32, "--depth", 1)
    assert shown == _masked(edgevit.info("van_b0", num_classes=10, input_size=32, depth=1).to_json())
    assert _printed(capsys, "doctor") == _masked(environment.to_json(edgevit.doctor()))


@pytest.mark.parametrize(
    ("command", "words", "keywords"),
    [
        (
            "train",
            ["--recipe", "photos", "--epochs", 1, "--input-size", SIZE, "--threads", 1],
            {"recipe": "photos", "epochs": 1, "input_size": SIZE, "threads": 1},
        ),
        ("quantize", ["--samples", 16], {"samples": 16}),
        ("qat", ["--epochs", 1, "--samples", 16, "--threads", 1], {"epochs": 1, "samples": 16, "threads": 1}),
        (
            "prune",
            ["--sparsity", 0.25, "--epochs", 1, "--threads", 1],
            {"sparsity": 0.25, "epochs": 1, "threads": 1},
        ),
    ],
)
def test_commands_that_write_checkpoints(capsys, line, model, tmp_path, command, words, keywords):
    weights, data = line / "float.pt", line / "data"
    files = tmp_path / "command.pt", tmp_path / "python.pt"
    shown = _printed(capsys, command, model, "--weights", weights, "--data", data, "--out", files[0], *words)
    result = getattr(edgevit, command)(model, weights=weights, data=data, out=files[1], **keywords)
    assert shown == json.loads(json.dumps(_masked(dataclasses.asdict(result))))
    one, other = map(read_checkpoint, files)
    assert _masked(dataclasses.asdict(one.metadata)) == _masked(dataclasses.asdict(other.metadata))
    _same_tensors(one.state_dict, other.state_dict)
    assert (one.int8 is None) == (other.int8 is None) == (command in ("train", "prune"))
    if one.int8 is not None:
        assert one.int8.graph == other.int8.graph
        _same_tensors(one.int8.tensors, other.int8.tensors)


def _same_tensors(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> None:
    assert set(one) == set(other)
    assert [name for name, tensor in one.items() if not torch.equal(tensor, other[name])] == []


def test_convert(capsys, line, model, tmp_path):
    pytest.importorskip("ai_edge_litert", reason="ai-edge-litert is not installed")
    labels = tmp_path / "labels.txt"
    labels.write_text("zero\none\n")
    words = ["-t", "tflite", "--weights", line / "float.pt", "--labels", labels, "--no-deploy"]
    words += ["-O", "weight_compression=none"]
    shown = _printed(capsys, "convert", model, *words, "--out", tmp_path / "command")
    made = edgevit.convert(
        model,
        target=["tflite"],
        weights=line / "float.pt",
        labels=labels,
        deploy=False,
        options={"weight_compression": "none"},
        out=tmp_path / "python",
    )
    assert shown == _masked([one.manifest.to_json() for one in made])
    _same_files(tmp_path / "command", tmp_path / "python")


def test_verify(capsys, artifact, int8, model, tmp_path):
    words = ["--weights", int8, "--model", model, "--out", tmp_path / "command"]
    shown = _printed(capsys, "verify", artifact.path, *words)
    result = edgevit.verify(artifact, weights=int8, model=model, out=tmp_path / "python")
    assert [step.name for step in result.error_breakdown] == [
        "float network",
        "exported graph",
        "int8 network",
        "artifact",
    ]
    assert shown == _masked([json.loads(json.dumps(result.to_json()))])
    _same_files(tmp_path / "command", tmp_path / "python")


def test_evaluate(capsys, artifact, int8, model, line, tmp_path):
    words = ["--data", line / "data", "--weights", int8, "--model", model, "--out", tmp_path / "command"]
    shown = _printed(capsys, "evaluate", artifact.path, *words)
    results = edgevit.evaluate(artifact, data=line / "data", weights=int8, model=model, out=tmp_path / "python")
    assert shown == _masked(json.loads(json.dumps([result.to_json() for result in results])))
    _same_files(tmp_path / "command", tmp_path / "python")


@pytest.mark.parametrize("reference", ["checkpoint", "float"])
def test_debug(capsys, artifact, int8, model, line, tmp_path, reference):
    words = ["--data", line / "data", "--samples", 2, "--reference", reference, "--weights", int8, "--model", model]
    shown = _printed(capsys, "debug", artifact.path, *words, "--out", tmp_path / "command")
    result = edgevit.debug(
        artifact.path,
        data=line / "data",
        samples=2,
        reference=reference,
        weights=int8,
        model=model,
        out=tmp_path / "python",
    )
    assert shown == _masked(json.loads(json.dumps(result.to_json())))
    _same_files(tmp_path / "command", tmp_path / "python")


def test_qparams(capsys, artifact, int8, model):
    shown = _printed(capsys, "qparams", artifact.path, "--weights", int8, "--model", model)
    assert shown == _masked(edgevit.qparams(artifact, weights=int8, model=model).to_json())


def test_lint(capsys, tmp_path):
    package = small().write(tmp_path / "small.mlpackage")
    assert _printed(capsys, "lint", package) == _masked(edgevit.lint(package).to_json())


def test_predict(capsys, artifact, segmenter_artifact, tmp_path):
    photo = tmp_path / "photo.png"
    Image.fromarray(sample_images()["landscape"]).save(photo)
    shown = _printed(capsys, "predict", artifact.path, photo, photo, "--top", 1)
    assert shown == _masked([result.to_json() for result in edgevit.predict(artifact, [photo, photo], top=1)])
    (shown,) = _printed(capsys, "predict", segmenter_artifact.path, photo, "--out", tmp_path / "command")
    (result,) = edgevit.predict(segmenter_artifact, photo, out=tmp_path / "python")
    assert shown["shares"] == result.shares
    _same_files(tmp_path / "command", tmp_path / "python")


def test_profile_and_compare(capsys, monkeypatch, tmp_path):
    device = FakeDevice(lambda job, number: (1_000_000,) * job.timing.runs)
    monkeypatch.setattr(latency, "get_device", lambda address: device)
    one, other = (write_artifact(tmp_path, name, dynamic_batch=True) for name in ("a-fake", "b-fake"))
    shown = _printed(capsys, "profile", one.path, "--batch", 2, "--runs", 7, "--out", tmp_path / "command")
    result = edgevit.profile(one.path, batch=2, runs=7, out=tmp_path / "python")
    assert shown["profiles"] == _masked([json.loads(json.dumps(result.to_json()))])
    shown = _printed(capsys, "profile", "--compare", one.path, other.path, "--rounds", 6, "--out", tmp_path / "command")
    result = edgevit.compare(one, other.path, rounds=6, out=tmp_path / "python")
    assert shown == _masked(json.loads(json.dumps(result.to_json())))
    _same_files(tmp_path / "command", tmp_path / "python")


def test_report(capsys, artifact, tmp_path):
    folder, formats = artifact.path.parent, ("md", "csv")
    words = [word for name in formats for word in ("--format", name)]
    shown = _printed(capsys, "report", folder, "--out", tmp_path / "command", *words)
    written = edgevit.report(folder, out=tmp_path / "python", formats=formats)
    assert [Path(path).name for path in shown["paths"]] == [path.name for path in written]
    _same_files(tmp_path / "command", tmp_path / "python")


def test_bundle(capsys, artifact, tmp_path):
    for side in ("command", "python"):
        (tmp_path / side / "apps" / "android").mkdir(parents=True)
    code, out, error = run(capsys, "bundle", "android", artifact.path, "--root", tmp_path / "command")
    assert code == 0, error
    bundled = edgevit.bundle("android", artifact, root=tmp_path / "python")
    assert out.split() == [str(tmp_path / "command" / bundled.path.relative_to(tmp_path / "python"))]
    _same_files(tmp_path / "command", tmp_path / "python")
