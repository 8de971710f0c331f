"""Program -> ONNX file, by torch's own exporter."""

from __future__ import annotations

import logging
import operator
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from edgevit.errors import ConversionError
from edgevit.libraries import require
from edgevit.program import Program, describe

if TYPE_CHECKING:
    from torch import fx

OPSET = 20  # the first with Gelu as one node


def export_onnx(program: Program, path: Path, opset: int = OPSET) -> None:
    """Write one self-contained file with the spec's tensor names, NCHW and float32 as the program has them.

    Raises ConversionError naming every op without an ONNX form, or MissingDependency without onnx and onnxscript.
    """
    for module in ("onnx", "onnxscript"):
        require(module, "onnx")
    import torch

    _require_known(program, opset)
    with _quiet():
        try:
            torch.onnx.export(
                program.exported,
                f=str(path),
                dynamo=True,
                external_data=False,
                opset_version=opset,
                input_names=[spec.name for spec in program.spec.inputs],
                output_names=[spec.name for spec in program.spec.outputs],
                verbose=False,
            )
        except torch.onnx.OnnxExporterError as error:
            raise ConversionError(
                f"{program.spec.name} does not become ONNX: {_cause(error)}", hint="--debug shows where"
            ) from error


def _require_known(program: Program, opset: int) -> None:
    """Raise ConversionError with all ops that torch can neither translate nor break up; it names only the first."""
    from torch.export import default_decompositions
    from torch.onnx._internal.exporter._registration import ONNXRegistry

    with _quiet():
        registry, composites = ONNXRegistry.from_torchlib(opset), default_decompositions()

    def known(node: fx.Node) -> bool:
        return node.target is operator.getitem or registry.is_registered(node.target) or node.target in composites

    calls = [node for node in program.exported.graph.nodes if node.op == "call_function"]
    missing = [describe(node) for node in calls if not known(node)]
    if missing:
        raise ConversionError(
            f"ONNX has no form of {len(missing)} op(s) of {program.spec.name}: {'; '.join(missing)}",
            hint="rewrite those modules with ops that ONNX knows",
        )


@contextmanager
def _quiet() -> Iterator[None]:
    """Hold back the exporter's warnings: they concern libraries and rewrites that play no part here."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


def _cause(error: BaseException) -> str:
    """The innermost reason in one line; the exporter wraps it in pages of advice."""
    while error.__cause__ is not None:
        error = error.__cause__
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0] if lines else 'no message'}"[:300]
