"""AOTInductor: one tiny network compiled to bf16, run, verified, timed and refused. Compiling it takes seconds."""

from __future__ import annotations

import dataclasses
import json
import shutil
import zipfile

import numpy as np
import pytest

import edgevit
from converters.aotinductor import package
from converters.aotinductor.converter import CONVERTER, MODEL_FILE, AOTInductorOptions
from converters.aotinductor.package import missing_here, read_facts
from edgevit.artifacts.artifact import Artifact
from edgevit.contract.job import TimingSettings
from edgevit.errors import ContractError, ConversionError, UsageError
from edgevit.spec import Precision
from edgevit.targets.base import NotExecutable
from tests.tiny import TinyClassifier, classifier_spec, seeded

pytestmark = pytest.mark.skipif(
    shutil.which("g++") is None and shutil.which("clang++") is None, reason="no C++ compiler"
)


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Artifact:
    """TinyClassifier in bf16, whose fp32 reference build was compiled and held to 1e-5 on the way."""
    out = tmp_path_factory.mktemp("aotinductor")
    model = seeded(TinyClassifier)
    return edgevit.convert(model, spec=classifier_spec(), target="aotinductor", precision="bf16", out=out)


def test_artifact_says_what_was_compiled_and_compared(made):
    manifest = made.manifest
    assert made.path.name == "tiny_classifier-bf16-aotinductor"
    assert (manifest.dynamic_batch, manifest.accelerator) == (True, "cpu")
    assert manifest.checks["batch sizes"] == "1, 3"
    assert manifest.checks["compiled for"].startswith("cpu ")
    assert "over 8 inputs in aotinductor" in manifest.checks["fp32 reference build"]
    assert manifest.parity.samples == 8
    assert 30 <= manifest.parity.snr_db < 70  # bf16 has rounded
    assert manifest.lowering.ops["aten.conv2d.default"] == 2


def test_package_runs_any_batch_with_the_threads_asked_for(made):
    session = made.open(threads=2)
    try:
        assert (session.accelerator, session.threads) == ("cpu", 2)
        images = np.random.default_rng(0).standard_normal((5, 3, 32, 32), np.float32)
        together = session.run({"image": images})["logits"]
        alone = made.run(images, session=session)
        assert together.shape == (5, 5)
        assert np.abs(together - alone).max() <= 0.02 * np.abs(alone).max()
    finally:
        session.close()
    assert edgevit.verify(made).parity.samples == 5


def test_profile_tells_images_per_second(made):
    report = edgevit.profile(made, batch=4, timing=TimingSettings(warmup_runs=1, warmup_s=0, runs=3, min_s=0))
    assert report.images_per_s == pytest.approx(4000 / report.p50_ms)
    assert report.raw.parity.within_tolerance
    assert report.to_json()["batch"] == report.raw.job.batch == 4


def test_code_for_one_accelerator_runs_on_no_other(made):
    with pytest.raises(UsageError, match="-O accelerator=cuda"):
        made.open("cuda")
    with pytest.raises(UsageError, match="unknown accelerator 'npu'"):
        AOTInductorOptions(accelerator="npu")


def test_cuda_needs_a_cuda_device(made, tmp_path, monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    with pytest.raises(ConversionError, match="no CUDA device"):
        CONVERTER.convert(None, AOTInductorOptions(accelerator="cuda"), tmp_path)


def test_instructions_that_a_machine_lacks_are_named_before_any_code_runs(made, monkeypatch):
    facts = read_facts(made.path / MODEL_FILE)
    assert missing_here(facts) == []
    assert missing_here(dataclasses.replace(facts, architecture="pdp11")) == ["pdp11"]
    monkeypatch.setattr("torch.cpu.get_capabilities", lambda: {"avx2": True})
    lacking = dataclasses.replace(facts, instructions=("AVX512",))
    assert missing_here(lacking) == ["AVX512"]
    monkeypatch.setattr(package, "read_facts", lambda path: lacking)
    with pytest.raises(NotExecutable, match="a machine with AVX512"):
        made.open()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"precision": Precision.FP32}, "has precision bf16"),
        ({"accelerator": "cuda"}, "has accelerator cpu"),
        ({"outputs": ()}, "has outputs"),
    ],
    ids=["precision", "accelerator", "outputs"],
)
def test_package_that_is_not_what_its_manifest_says(made, changes, words):
    with pytest.raises(ContractError, match=words):
        CONVERTER.check(made.path, dataclasses.replace(made.manifest, **changes))


def test_files_that_are_no_packages_of_ours_are_refused(made, tmp_path):
    path = tmp_path / MODEL_FILE
    path.write_bytes((made.path / MODEL_FILE).read_bytes()[:5000])
    with pytest.raises(ContractError, match="no package that edgevit compiled"):
        CONVERTER.check(tmp_path, made.manifest)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("model/data/a.wrapper.so", b"")
        archive.writestr("model/data/a.wrapper_metadata.json", json.dumps({"AOTI_MACHINE": "x86_64"}))
    with pytest.raises(ContractError, match="KeyError: 'edgevit'"):
        CONVERTER.check(tmp_path, made.manifest)


def test_compiled_code_shows_no_layers(made):
    with pytest.raises(UsageError, match="shows no layers"):
        CONVERTER.open_traced(made.path, made.manifest, None, [])


def test_compiled_code_holds_no_qparams(made):
    with pytest.raises(ContractError, match="no quantization parameters"):
        CONVERTER.read_qparams(made.path, made.manifest)
