"""ONNX export: names, numbers, one message for all ops that have no ONNX form, silence."""

from __future__ import annotations

import socket

import numpy as np
import pytest
import torch

from edgevit.errors import ConversionError
from edgevit.export import export
from edgevit.onnx_export import OPSET, export_onnx
from tests.tiny import TinyClassifier, classifier_spec, seeded
from tests.untranslatable import Untranslatable

onnx = pytest.importorskip("onnx", reason="onnx is not installed")
pytest.importorskip("onnxscript", reason="onnxscript is not installed")


def test_exported_file_is_whole_named_and_right(tmp_path, monkeypatch, capfd):
    monkeypatch.setattr(socket, "create_connection", _no_network)
    monkeypatch.setattr(socket.socket, "connect", _no_network)
    monkeypatch.chdir(tmp_path)
    model = seeded(TinyClassifier)

    export_onnx(export(model, classifier_spec()), tmp_path / "model.onnx")

    assert [path.name for path in tmp_path.iterdir()] == ["model.onnx"]  # no external data, nothing else left
    document = onnx.load(tmp_path / "model.onnx")
    assert document.opset_import[0].version == OPSET
    assert [value.name for value in document.graph.input] == ["image"]
    assert [value.name for value in document.graph.output] == ["logits"]
    image = torch.randn(1, 3, 32, 32)
    (logits,) = onnx.reference.ReferenceEvaluator(document).run(None, {"image": image.numpy()})
    with torch.no_grad():
        np.testing.assert_allclose(logits, model(image).numpy(), rtol=1e-4, atol=1e-5)
    shown = capfd.readouterr()
    assert (shown.out, shown.err) == ("", "")


def test_all_ops_without_onnx_form_are_named_with_their_modules(tmp_path):
    program = export(Untranslatable(), classifier_spec())
    with pytest.raises(ConversionError) as caught:
        export_onnx(program, tmp_path / "model.onnx")
    assert "2 op(s)" in caught.value.message
    assert "aten.special_bessel_j0.default at first" in caught.value.message
    assert "aten.digamma.default at second" in caught.value.message
    assert not list(tmp_path.iterdir())


def _no_network(*_: object, **__: object) -> None:
    raise AssertionError("reached for the network")
