"""The ranking of layers: by local error, not by accumulated error."""

from __future__ import annotations

import copy
import dataclasses
import json
from dataclasses import dataclass, field
from types import SimpleNamespace

import pytest

from edgevit.errors import UsageError
from edgevit.export.export_program import export
from edgevit.graph.capture import example_input
from edgevit.spec import Precision
from edgevit.verification import numeric_debugger
from edgevit.verification.layer_values import ProgramTrace, layers_of
from edgevit.verification.numeric_debugger import debug, row
from tests.fakes import FakeConverter, write_artifact
from tests.tiny import int8_network, residual_spec


@dataclass
class Recording(FakeConverter):
    """A runtime that computes another program, layer by layer; `hides` names a layer that it does not record."""

    program: object = None
    hides: str = ""
    gain: float = field(default=1.0)

    def open(self, folder, manifest, accelerator="cpu", threads=1):
        return self._session({}, 1.0)

    def open_traced(self, folder, manifest, program, nodes):
        return self._session(set(nodes) - {self.hides}, self.gain)

    def _session(self, nodes, gain):
        def run(inputs):
            (image,) = inputs.values()
            values = ProgramTrace(self.program).run(image)
            last = list(values)[-1]
            return {"logits": values[last] * gain} | {name: values[name] for name in nodes}

        return SimpleNamespace(run=run, close=lambda: None, runtime="fake 1.2", accelerator="cpu")


@pytest.fixture
def program():
    return export(int8_network().module(), residual_spec(), precision=Precision.INT8)


@pytest.fixture
def use(monkeypatch, program):
    """Let `debug` compare `program` with what a converter makes of another one."""

    def installed(converter):
        monkeypatch.setattr(numeric_debugger, "load_source", lambda *given: None)
        monkeypatch.setattr(numeric_debugger, "program_of", lambda *given: program)
        monkeypatch.setattr(numeric_debugger, "get_converter", lambda name: converter)
        images = [example_input((1, 3, 32, 32), seed).numpy() for seed in range(2)]
        monkeypatch.setattr(numeric_debugger, "_images", lambda *given: (images, "its goldens"))

    return installed


def artifact_at(folder):
    """A fake one that takes the images of `use`."""
    artifact = write_artifact(folder)
    (given,) = artifact.manifest.inputs
    sized = dataclasses.replace(given, shape=(1, 3, 32, 32))
    return dataclasses.replace(artifact, manifest=dataclasses.replace(artifact.manifest, inputs=(sized,)))


def test_the_layer_that_errs_comes_first(use, program, tmp_path):
    names = list(program.exported.state_dict)
    bias = next(name for name in names if "mix" in name and "bias" in name)
    other = copy.deepcopy(program)
    other.exported.state_dict[bias].data.add_(0.5)
    use(Recording(program=other))
    report = debug(artifact_at(tmp_path), weights="w.pt", out=tmp_path)
    worst = report.layers[0]
    assert worst.layer.place.startswith("mix.")
    assert [error.layer.node for error in report.layers if error.local.snr_db is not None] == [worst.layer.node]
    assert worst.local.lsb_mismatch > 0.5
    inherited = [error for error in report.layers[1:] if error.accumulated.snr_db is not None]
    assert len(inherited) > 3
    assert all(error.local.max_abs_error == 0 for error in inherited)
    assert row(inherited[0])[2] == "equal"
    assert report.kinds()[0][0] == worst.layer.operation
    document = json.loads((tmp_path / "van-fp32-fake.debug.json").read_text())
    assert document["schema"] == "edgevit.debug"
    assert document["layers"][0]["layer"]["node"] == worst.layer.node
    assert document["layers"][0]["layer"]["qparams"]["scale"] == worst.layer.qparams.scale


def test_equal_programs_have_no_error(use, program, tmp_path):
    use(Recording(program=program))
    report = debug(artifact_at(tmp_path), weights="w.pt", out=tmp_path)
    assert report.same_outputs
    assert not any(error.accumulated.lsb_mismatch for error in report.layers)
    assert report.summary().startswith(f"0 of {len(layers_of(program))} layers add error; 2 images of its goldens")


def test_layers_that_are_not_reported_are_named(use, program, tmp_path):
    hidden = layers_of(program)[3].node
    use(Recording(program=program, hides=hidden))
    report = debug(artifact_at(tmp_path), weights="w.pt", out=tmp_path)
    assert report.unrecorded == (hidden,)
    assert "1 not recorded" in report.summary()


def test_changed_outputs_of_the_recording_copy_are_reported(use, program, tmp_path, caplog):
    use(Recording(program=program, gain=2.0))
    report = debug(artifact_at(tmp_path), weights="w.pt", out=tmp_path)
    assert not report.same_outputs
    assert "NOT bit-exact" in report.summary()
    assert "recording activations changed the outputs" in caplog.text


def test_no_images_are_refused(tmp_path):
    with pytest.raises(UsageError, match="no images"):
        debug(artifact_at(tmp_path), weights="w.pt", data="digits", samples=0)
