"""Converting the same again: what is taken from the cache, what is made anew; each command in its own process."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

import edgevit
from edgevit.artifacts.artifact import load_artifact
from edgevit.checkpoints.model_source import load_model, state_digest
from edgevit.contract.manifest import Executed
from edgevit.infra import process
from tests.fakes import install_target
from tests.tiny import TinyClassifier, classifier_spec, seeded

HEAVY = {"torch", "coremltools", "executorch", "ai_edge_litert"}
# Runs the command line and says which heavy libraries it loaded.
COMMAND = (
    "import sys\nfrom edgevit.cli.main import main\n"
    "try:\n    main(sys.argv[1:])\n"
    f"finally:\n    print('loaded', *sorted({HEAVY} & set(sys.modules)), file=sys.stderr)"
)


@dataclass(frozen=True)
class Ended:
    """A command that ended."""

    code: int
    log: str

    @property
    def cached(self) -> int:
        return self.log.count("cached    model=")

    @property
    def loaded(self) -> list[str]:
        return self.log.splitlines()[-1].split()[1:]


@pytest.fixture
def workshop(tmp_path):
    """A user's model file with a helper module and a data file, an empty cache, and the targets of tests.fakes."""
    (tmp_path / "widths.py").write_text("width = 8\n")
    (tmp_path / "scale.txt").write_text("1.0")
    (tmp_path / "net.py").write_text(
        "from pathlib import Path\n"
        "from torch import nn\n"
        "from widths import width\n"
        "def build(num_classes=4):\n"
        "    scale = float((Path(__file__).parent / 'scale.txt').read_text())\n"
        "    head = nn.Linear(width, num_classes)\n"
        "    head.weight.data *= scale\n"
        "    return nn.Sequential(nn.Conv2d(3, width, 3, stride=2), nn.AdaptiveAvgPool2d(1), nn.Flatten(), head)\n"
    )
    install_target(tmp_path / "site")
    return tmp_path


def convert(workshop: Path, *arguments: str, out: str = "out", program: tuple[str, ...] = ("-m", "edgevit")) -> Ended:
    python_path = os.pathsep.join([str(workshop / "site"), str(Path(__file__).parents[3])])
    environment = {**os.environ, "EDGEVIT_CACHE": str(workshop / "cache"), "PYTHONPATH": python_path}
    argv = [sys.executable, "-W", "ignore", *program, "convert", f"{workshop / 'net.py'}:build", "--input-size", "32"]
    argv += ["-t", "tflite", "--out", str(workshop / out), *arguments]
    done = process.run(argv, env=environment, timeout_s=300)
    return Ended(done.returncode, done.stderr)


def identity(workshop: Path, out: str = "out") -> tuple[str, str]:
    """Hashes of the artifact (with its time) and of its weights."""
    artifact = load_artifact(workshop / out / "net-fp32-tflite")
    return artifact.manifest_sha256, artifact.manifest.provenance.weights.state_sha256


def test_unchanged_input_is_copied_without_loading_a_library(workshop):
    first = convert(workshop, program=("-c", COMMAND))
    assert (first.code, first.cached) == (0, 0), first.log
    assert "torch" in first.loaded
    made = identity(workshop)
    again = convert(workshop, out="elsewhere", program=("-c", COMMAND))
    assert (again.code, again.cached, again.loaded) == (0, 1, []), again.log
    assert identity(workshop, "elsewhere") == made
    created = load_artifact(workshop / "out/net-fp32-tflite").manifest.provenance.created_utc
    assert f"made on {created}" in again.log
    assert "has random weights (seed 0)" in again.log
    off = convert(workshop, "--no-cache", out="anew")
    assert (off.code, off.cached) == (0, 0), off.log
    assert identity(workshop, "anew")[0] != made[0]
    assert identity(workshop, "anew")[1] == made[1]  # the same seed


def test_changed_helper_or_data_of_a_model_file_is_converted_anew(workshop):
    convert(workshop)
    seen = {identity(workshop)[1]}
    for file, text in (("widths.py", "width = 16\n"), ("scale.txt", "2.0")):
        (workshop / file).write_text(text)
        changed = convert(workshop)
        assert (changed.code, changed.cached) == (0, 0), changed.log
        seen.add(identity(workshop)[1])
    assert len(seen) == 3
    assert convert(workshop).cached == 1


def test_hanging_converter_fails_alone_and_the_others_are_kept(workshop):
    both = convert(workshop, "-t", "hanging", "--timeout", "10")
    assert both.code == 4
    assert "error: the hanging converter did not end within 10 s and was stopped" in both.log
    assert "fix: give it more with --timeout" in both.log
    assert isinstance(load_artifact(workshop / "out/net-fp32-tflite").manifest.parity, Executed)
    again = convert(workshop, "-t", "hanging", "--timeout", "2", out="elsewhere")
    assert (again.code, again.cached) == (4, 1), again.log
    assert "convert   model=net target=tflite" not in again.log
    assert identity(workshop, "elsewhere") == identity(workshop)


def test_unusable_cache_is_one_warning_and_the_conversion_stands(workshop):
    (workshop / "cache").write_text("in the way")
    ended = convert(workshop)
    assert ended.code == 0
    assert ended.log.count("WARNING   nothing is cached") == 1
    assert isinstance(load_artifact(workshop / "out/net-fp32-tflite").manifest.parity, Executed)


def test_damaged_entry_is_made_again(workshop):
    convert(workshop)
    (entry,) = (workshop / "cache").glob("*/*/model.tflite")
    entry.write_bytes(b"damage")
    ended = convert(workshop, out="elsewhere")
    assert (ended.code, ended.cached) == (0, 0)
    assert "damaged and converted anew" in ended.log
    assert convert(workshop, out="a third place").cached == 1


def test_model_in_memory_is_always_converted(tmp_path, monkeypatch):
    monkeypatch.setenv("EDGEVIT_CACHE", str(tmp_path / "cache"))
    model = seeded(TinyClassifier)
    created = set()
    for name in ("a", "b"):
        artifact = edgevit.convert(model, spec=classifier_spec(), target="tflite", out=tmp_path / name)
        created.add(artifact.manifest_sha256)
    assert len(created) == 2
    assert not (tmp_path / "cache").exists()


def test_random_weights_are_the_same_every_time_and_leave_the_callers_numbers_alone(tmp_path):
    (tmp_path / "net.py").write_text(
        "from torch import nn\n"
        "def build():\n"
        "    return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 4))\n"
    )
    torch.manual_seed(11)
    expected = torch.rand(3)
    digests = set()
    for seed in (11, 12):
        torch.manual_seed(seed)
        digests.add(state_digest(load_model(f"{tmp_path / 'net.py'}:build", input_size=8).module))
        if seed == 11:
            assert torch.equal(torch.rand(3), expected)
    assert len(digests) == 1
