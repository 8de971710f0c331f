"""What edgevit/compat/litert.py relies on."""

from __future__ import annotations

import pytest

from edgevit.compat import litert
from edgevit.deploy.pass_manager import deploy
from edgevit.export.export_program import export
from tests.tiny import TinyClassifier, classifier_spec, seeded

interpreter = pytest.importorskip("ai_edge_litert.interpreter", reason="LiteRT is not installed")


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    from converters.tflite import CONVERTER

    folder = tmp_path_factory.mktemp("tflite")
    program = export(deploy(seeded(TinyClassifier), classifier_spec())[0], classifier_spec())
    return folder / CONVERTER.convert(program, CONVERTER.Options(), folder).entry


def test_operators_have_names_and_tensors_and_one_is_the_delegate(path):
    loaded = interpreter.Interpreter(str(path), num_threads=1)
    loaded.allocate_tensors()
    operators = litert.operators(loaded)
    assert {"CONV_2D", "DELEGATE"} <= {operator["op_name"] for operator in operators}
    for operator in operators:
        assert all(int(index) >= -1 for index in (*operator["inputs"], *operator["outputs"]))


def test_the_schema_reads_and_writes_a_file(path):
    import flatbuffers

    schema = litert.file_schema()
    model = schema.ModelT.InitFromObj(schema.Model.GetRootAs(path.read_bytes()))
    assert len(model.subgraphs) == 1
    builder = flatbuffers.Builder(0)
    builder.Finish(model.Pack(builder), b"TFL3")
    again = schema.ModelT.InitFromObj(schema.Model.GetRootAs(bytes(builder.Output())))
    assert [tensor.name for tensor in again.subgraphs[0].tensors] == [t.name for t in model.subgraphs[0].tensors]
    assert schema.BuiltinOperator.CONV_2D == 3
