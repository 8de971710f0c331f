"""Program: a captured network with the invariants that every converter relies on, checked at construction."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgevit.compat.torch import qdq_operations
from edgevit.contract.manifest import spec_from_json, spec_to_json
from edgevit.errors import ExportError
from edgevit.graph.node_names import describe
from edgevit.infra.files import write_json
from edgevit.spec import ModelSpec, Precision

if TYPE_CHECKING:
    import numpy as np
    from torch import fx
    from torch.export import ExportedProgram

MAX_RANK = 5
_BATCH_RANK = MAX_RANK + 1  # the batch may need an additional axis; servers' runtimes take any rank
_TRAINING_OPS = ("dropout", "bernoulli", "rand", "_native_batch_norm_legit.", "fake_quantize")


@dataclass(frozen=True)
class Program:
    """Functional ATen graph in float32, eval mode, named NCHW inputs and outputs.

    Its shapes are static, or all of them follow from the number of images, the one symbol, which is the leading axis
    of every input and output (`dynamic_batch`).

    Composite ops that the runtimes know (linear, conv2d, gelu, layer_norm, softmax, upsampling) stay whole:
    each converter lowers them in its own best way. `precision` is that of the artifact;
    a converter casts the float32 graph itself. The graph's user inputs and outputs correspond in order to
    spec.inputs and spec.outputs. provenance goes into the manifest unchanged.

    Raises ExportError naming every offending op with its module path.
    """

    exported: ExportedProgram
    spec: ModelSpec
    precision: Precision
    labels: tuple[str, ...]
    provenance: dict[str, Any]

    def __post_init__(self) -> None:
        batch = self._batch_symbol()
        problems = [problem for node in self.exported.graph.nodes for problem in _node_problems(node, batch)]
        problems += self._signature_problems()
        if problems:
            shown = "; ".join(problems[:8]) + (f"; and {len(problems) - 8} more" if len(problems) > 8 else "")
            raise ExportError(
                f"{self.spec.name} does not become a program: {shown}",
                fix="rewrite those modules with float32 tensors of static shape and rank 5 or less",
            )

    @property
    def dynamic_batch(self) -> bool:
        """Whether the graph takes any number of images at once."""
        return bool(self._batch_symbol())

    @property
    def example_inputs(self) -> tuple[Any, ...]:
        """The inputs that the graph was captured with: one float32 tensor per spec input."""
        return self.exported.example_inputs[0]

    def _batch_symbol(self) -> str:
        """The symbol of the batch size, "" if that size is fixed."""
        first = self.exported.graph_signature.user_inputs[0]
        values = (node.meta["val"] for node in self.exported.graph.nodes if node.name == first)
        size = next(values).shape[0]
        return "" if isinstance(size, int) else str(size)

    def _signature_problems(self) -> list[str]:
        signature = self.exported.graph_signature
        values = {node.name: node.meta.get("val") for node in self.exported.graph.nodes}
        problems = [f"mutates {target}" for target in signature.buffers_to_mutate.values()]
        batch = self._batch_symbol()
        for kind, names, specs in (
            ("input", signature.user_inputs, self.spec.inputs),
            ("output", signature.user_outputs, self.spec.outputs),
        ):
            shapes = [tuple(map(str, values[name].shape)) for name in names]
            wanted = [(batch or str(spec.shape[0]), *map(str, spec.shape[1:])) for spec in specs]
            if shapes != wanted:
                found, said = (", ".join(f"({', '.join(shape)})" for shape in sizes) for sizes in (shapes, wanted))
                problems.append(f"{kind}s have shapes [{found}], the spec says [{said}]")
        return problems


def _node_problems(node: fx.Node, batch: str) -> list[str]:
    """The invariants that a node breaks; batch: the one symbol that its sizes may depend on, "" for none."""
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
        most = _BATCH_RANK if batch else MAX_RANK
        if tensor.dim() > most:
            problems.append(f"{describe(node)}: rank {tensor.dim()}, at most {most}")
        symbols = {str(symbol) for size in tensor.shape if not isinstance(size, int) for symbol in _symbols(size)}
        if symbols - {batch}:
            problems.append(f"{describe(node)}: dynamic shape {tuple(tensor.shape)}")
        if tensor.dtype in (torch.float64, torch.complex64, torch.complex128):
            problems.append(f"{describe(node)}: {tensor.dtype}")
    return problems


def runner(program: Program) -> Callable[[np.ndarray], np.ndarray]:
    """The program in PyTorch: normalised images (N, 3, H, W) to logits (N, ...), one by one."""
    import torch

    module = program.exported.module(check_guards=False)

    def run(tensors: np.ndarray) -> np.ndarray:
        with torch.no_grad():
            return torch.cat([module(image[None]) for image in torch.from_numpy(tensors)]).numpy()

    return run


def _symbols(size: Any) -> set[Any]:
    """The symbols in a size that is an expression."""
    return size.node.expr.free_symbols


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

    qdq_operations()  # registers the operations of int8 programs
    facts = json.loads((folder / "program.json").read_text())
    exported = torch.export.load(folder / "program.pt2")
    exported.graph_module.graph.eliminate_dead_code()  # saving also writes results without users
    return Program(
        exported,
        spec_from_json(facts["spec"]),
        Precision(facts["precision"]),
        tuple(facts["labels"]),
        facts["provenance"],
    )
