"""Program -> ONNX file, by torch's own exporter."""

from __future__ import annotations

import logging
import operator
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from converters.onnx.simplify import simplify
from edgevit.compat.torch import onnx_forms
from edgevit.errors import ConversionError
from edgevit.export.half_precision import cast_to_precision
from edgevit.export.program import Program
from edgevit.graph.intermediate_outputs import with_outputs
from edgevit.graph.node_names import describe

if TYPE_CHECKING:
    from onnx import GraphProto, ModelProto
    from torch import fx

OPSET = 20  # the first with Gelu as one node
BATCH = "batch"


def export_onnx(program: Program, path: Path, nodes: Sequence[str] = ()) -> None:
    """Write one self-contained file with the spec's tensor names, NCHW; the size named `batch` counts images.

    nodes: of the program's graph, whose values become outputs too, as `with_outputs` gives them and `recorded_names`
    calls them.
    Raises ConversionError naming every op without an ONNX form.
    """
    import onnx
    import torch

    _require_known(program)
    with _quiet():
        try:
            exported = torch.onnx.export(
                cast_to_precision(program, with_outputs(program.exported, nodes) if nodes else None),
                dynamo=True,
                external_data=False,
                opset_version=OPSET,
                input_names=[spec.name for spec in program.spec.inputs],
                optimize=False,
                verbose=False,
            )
            assert exported is not None  # as `dynamo` has it
            simplify(exported.model)
        except torch.onnx.OnnxExporterError as error:
            raise ConversionError(
                f"{program.spec.name} does not become ONNX: {_cause(error)}", fix="--debug shows where"
            ) from error
    results = [*(spec.name for spec in program.spec.outputs), *recorded_names(nodes)]
    for value, name in zip(exported.model.graph.outputs, results, strict=True):  # which simplifying may merge
        value.name = name
    model = exported.model_proto
    if program.dynamic_batch:
        _name_batch(model.graph)
    _forget_origins(model)
    onnx.save(model, str(path))


def recorded_names(nodes: Sequence[str]) -> list[str]:
    """Names of further outputs that no value of the exporter has; it may call another value as the node is called."""
    return [f"recorded.{position}" for position in range(len(nodes))]


def _require_known(program: Program) -> None:
    """Raise ConversionError with all ops that torch can neither translate nor break up; it names only the first."""
    from torch.export import default_decompositions

    with _quiet():
        has_form, composites = onnx_forms(OPSET), default_decompositions()

    def known(node: fx.Node) -> bool:
        ready = node.target is operator.getitem or not hasattr(node.target, "namespace")  # sizes are plain Python
        return ready or has_form(node.target) or node.target in composites

    calls = [node for node in program.exported.graph.nodes if node.op == "call_function"]
    missing = [describe(node) for node in calls if not known(node)]
    if missing:
        raise ConversionError(
            f"ONNX has no form of {len(missing)} op(s) of {program.spec.name}: {'; '.join(missing)}",
            fix="rewrite those modules with ops that ONNX knows",
        )


def _name_batch(graph: GraphProto) -> None:
    """Name the batch at inputs and outputs; intermediate shapes, which runtimes infer, would name it otherwise."""
    for end in (*graph.input, *graph.output):
        for size in end.type.tensor_type.shape.dim[:1]:
            size.dim_param = BATCH
    del graph.value_info[:]


def _forget_origins(model: ModelProto) -> None:
    """Drop the exporter's notes: they hold stack traces with paths of this machine, and change from run to run."""
    for noted in (model, model.graph, *model.graph.node, *model.graph.initializer, *model.graph.input):
        noted.doc_string = ""
        del noted.metadata_props[:]
    for end in model.graph.output:
        end.doc_string = ""
        del end.metadata_props[:]
    model.graph.name = "main"


@contextmanager
def _quiet() -> Iterator[None]:
    """Hold back the exporter's warnings: they concern libraries and rewrites that play no part here."""
    names = ("torch.onnx", "onnxscript", "onnx_ir")
    levels = {name: logging.getLogger(name).level for name in names}
    for name in names:
        logging.getLogger(name).setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for name, level in levels.items():
            logging.getLogger(name).setLevel(level)


def _cause(error: BaseException) -> str:
    """The innermost reason in one line; the exporter wraps it in pages of advice."""
    while error.__cause__ is not None:
        error = error.__cause__
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0] if lines else 'no message'}"[:300]
