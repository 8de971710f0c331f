"""Program: a captured network that every converter may rely on, its invariants checked when it is made."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgevit.contract.manifest import spec_from_json, spec_to_json
from edgevit.errors import ExportError
from edgevit.spec import ModelSpec, Precision
from edgevit.storage import write_json

if TYPE_CHECKING:
    from torch import fx
    from torch.export import ExportedProgram

MAX_RANK = 5
_TRAINING_OPS = ("dropout", "bernoulli", "rand", "_native_batch_norm_legit.", "fake_quantize")


@dataclass(frozen=True)
class Program:
    """Functional ATen graph in float32, eval mode, static shapes, named NCHW inputs and outputs.

    Composite ops that the runtimes know (linear, conv2d, gelu, layer_norm, softmax, upsampling) stay whole:
    each converter lowers them in its own best way. `precision` is what the artifact shall have;
    a converter narrows the float32 graph itself. The graph's user inputs and outputs correspond in order to
    spec.inputs and spec.outputs. provenance goes into the manifest unchanged.

    Raises ExportError naming every offending op with its module path.
    """

    exported: ExportedProgram
    spec: ModelSpec
    precision: Precision
    labels: tuple[str, ...]
    provenance: dict[str, Any]

    def __post_init__(self) -> None:
        problems = [problem for node in self.exported.graph.nodes for problem in _node_problems(node)]
        problems += self._signature_problems()
        if problems:
            shown = "; ".join(problems[:8]) + (f"; and {len(problems) - 8} more" if len(problems) > 8 else "")
            raise ExportError(
                f"{self.spec.name} does not become a program: {shown}",
                hint="rewrite those modules with float32 tensors of static shape and rank 5 or less",
            )

    @property
    def example_inputs(self) -> tuple[Any, ...]:
        """The inputs that the graph was captured with: one float32 tensor per spec input."""
        return self.exported.example_inputs[0]

    def _signature_problems(self) -> list[str]:
        signature = self.exported.graph_signature
        values = {node.name: node.meta.get("val") for node in self.exported.graph.nodes}
        problems = [f"mutates {target}" for target in signature.buffers_to_mutate.values()]
        for kind, names, specs in (
            ("input", signature.user_inputs, self.spec.inputs),
            ("output", signature.user_outputs, self.spec.outputs),
        ):
            shapes = [tuple(values[name].shape) for name in names]
            wanted = [spec.shape for spec in specs]
            if shapes != wanted:
                problems.append(f"{kind}s have shapes {shapes}, the spec says {wanted}")
        return problems


def module_path(node: fx.Node) -> str:
    """Dotted path of the module that a graph node came from ("block1.0.attn"), or "" if it is not recorded."""
    stack = node.meta.get("nn_module_stack") or {}
    paths = [entry[0] for entry in stack.values()]
    return paths[-1].removeprefix("L['self'].") if paths else ""


def describe(node: fx.Node) -> str:
    """ "aten.convolution.default at block1.0.attn": what an error names."""
    where = module_path(node)
    return f"{node.target} at {where}" if where else str(node.target)


def _node_problems(node: fx.Node) -> list[str]:
    import torch

    if node.op != "call_function":
        return []
    problems = []
    if any(word in str(node.target) for word in _TRAINING_OPS):
        problems.append(f"{describe(node)}: behaves differently in training")
    value = node.meta.get("val")
    for tensor in value if isinstance(value, (tuple, list)) else (value,):
        if not isinstance(tensor, torch.Tensor):
            continue
        if tensor.dim() > MAX_RANK:
            problems.append(f"{describe(node)}: rank {tensor.dim()}, at most {MAX_RANK}")
        if any(not isinstance(size, int) for size in tensor.shape):
            problems.append(f"{describe(node)}: dynamic shape {tuple(tensor.shape)}")
        if tensor.dtype in (torch.float64, torch.complex64, torch.complex128):
            problems.append(f"{describe(node)}: {tensor.dtype}")
    return problems


def save_program(program: Program, folder: Path) -> None:
    """Write a Program so that another process can load it: program.pt2 and program.json."""
    import torch

    folder.mkdir(parents=True, exist_ok=True)
    torch.export.save(program.exported, folder / "program.pt2")
    facts = {
        "spec": spec_to_json(program.spec),
        "precision": program.precision.value,
        "labels": list(program.labels),
        "provenance": program.provenance,
    }
    write_json(folder / "program.json", facts)


def load_program(folder: Path) -> Program:
    """Read what save_program wrote. The spec's `build` is absent: a program needs none."""
    import torch
    import torch.ao.quantization.fx._decomposed

    facts = json.loads((folder / "program.json").read_text())
    exported = torch.export.load(folder / "program.pt2")
    exported.graph_module.graph.eliminate_dead_code()  # saving writes out results that nothing reads
    return Program(
        exported,
        spec_from_json(facts["spec"]),
        Precision(facts["precision"]),
        tuple(facts["labels"]),
        facts["provenance"],
    )
