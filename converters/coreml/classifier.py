"""Gives a saved package the outputs of a Core ML classifier, beside its logits."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgevit.compat.coremltools import message_classes
from edgevit.contract.manifest import Classifier
from edgevit.errors import UsageError
from edgevit.spec import Task

if TYPE_CHECKING:
    from google.protobuf.message import Message

    from edgevit.export.program import Program

OUTPUTS = Classifier(label="label", probabilities="probabilities")
_SCORES = "class_scores"  # softmax of the logits, inside the program
_STRING, _INT32, _FLOAT64 = 2, 23, 12  # MIL_pb2.DataType


def require_labels(program: Program) -> None:
    """Raise UsageError unless the program can be a classifier: one distinct label for every class."""
    labels = program.labels
    if program.spec.task is not Task.CLASSIFY:
        raise UsageError(f"{program.spec.name} segments; it cannot be a classifier", fix="leave classifier=true out")
    if not labels:
        raise UsageError(f"a classifier needs labels, {program.spec.name} has none", fix="give --labels FILE")
    if len(set(labels)) < len(labels):
        raise UsageError("a classifier needs distinct labels, some occur twice", fix="correct the label file")


def add_classifier(program_file: Path, labels: tuple[str, ...], logits: str) -> None:
    """Add softmax(logits) and the label of its largest to a program: `label` (string), `probabilities` (dictionary).

    Done to the file because coremltools' own classifier option cannot name and type the logits beside it. The
    softmax is computed in float32, from the very logits that an app can read.
    """
    model = message_classes("Model_pb2").Model()
    model.ParseFromString(program_file.read_bytes())
    function = model.mlProgram.functions["main"]
    block = function.block_specializations[function.opset]
    declared = next(value for op in block.operations for value in op.outputs if value.name == logits)

    axis = _operation(block, "const", "class_axis")
    axis.outputs.add(name="class_axis").type.tensorType.dataType = _INT32
    axis.attributes["val"].type.CopyFrom(axis.outputs[0].type)
    axis.attributes["val"].immediateValue.tensor.ints.values.append(-1)

    softmax = _operation(block, "softmax", _SCORES)
    softmax.inputs["x"].arguments.add(name=logits)
    softmax.inputs["axis"].arguments.add(name="class_axis")
    softmax.outputs.add(name=_SCORES).type.CopyFrom(declared.type)

    classify = _operation(block, "classify", "classify")
    classify.inputs["probabilities"].arguments.add(name=_SCORES)
    _fill_strings(classify.inputs["classes"].arguments.add().value, labels)
    classify.outputs.add(name=OUTPUTS.label).type.tensorType.dataType = _STRING
    mapping = classify.outputs.add(name=OUTPUTS.probabilities).type.dictionaryType
    mapping.keyType.tensorType.dataType = _STRING
    mapping.valueType.tensorType.dataType = _FLOAT64

    block.outputs.extend([OUTPUTS.label, OUTPUTS.probabilities])
    description = model.description
    description.output.add(name=OUTPUTS.label).type.stringType.SetInParent()
    description.output.add(name=OUTPUTS.probabilities).type.dictionaryType.stringKeyType.SetInParent()
    description.predictedFeatureName = OUTPUTS.label
    description.predictedProbabilitiesName = OUTPUTS.probabilities
    program_file.write_bytes(model.SerializeToString(deterministic=True))


def _operation(block: Message, kind: str, name: str) -> Any:
    """A new operation at the end of the block, named as coremltools names them."""
    operation = block.operations.add(type=kind)
    attribute = operation.attributes["name"]
    attribute.type.tensorType.dataType = _STRING
    attribute.immediateValue.tensor.strings.values.append(name)
    return operation


def _fill_strings(value: Message, strings: tuple[str, ...]) -> None:
    """Make a MIL Value the list of these strings."""
    value.type.listType.type.tensorType.dataType = _STRING
    value.type.listType.length.constant.size = len(strings)
    for string in strings:
        item = value.immediateValue.list.values.add()
        item.type.tensorType.dataType = _STRING
        item.immediateValue.tensor.strings.values.append(string)
