"""Private names of libraries are used in edgevit/compat, and nowhere else."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import edgevit

ROOT = Path(edgevit.__file__).resolve().parent.parent
LIBRARIES = ("torch", "torchao", "executorch", "coremltools", "nncf", "ai_edge_litert", "onnx", "onnxscript", "onnx_ir")
# Modules that no underscore marks, and that their libraries do not document.
PRIVATE = (
    "ai_edge_litert.schema_py_generated",
    "coremltools.converters.mil.frontend",
    "coremltools.converters.mil.testing_utils",
    "coremltools.libmilstoragepython",
    "coremltools.proto",
    "executorch.backends.xnnpack.partition.config",
    "executorch.backends.xnnpack.serialization",
    "executorch.backends.xnnpack.utils",
    "executorch.backends.xnnpack.xnnpack_preprocess",
    "executorch.exir.dialects",
    "executorch.exir.lowered_backend_module",
    "executorch.exir.passes",
    "executorch.extension.pybindings",
    "nncf.common",
    "nncf.experimental",
    "nncf.quantization",
    "nncf.torch",
    "torch.ao",
    "torch.fx.traceback",
    "torch.nn.modules",
)
# Attributes with an underscore that are no secrets: of named tuples, of the operating system, of CPython's stack, and
# the namespaces of operations, in which torch documents "_softmax" as it does "relu".
DOCUMENTED = {"_asdict", "_replace", "_fields", "_exit", "_getframe"}
OPERATIONS = re.compile(r"(torch\.ops\.)?_?aten$")
# Names that nobody imports: those in files of torch.save, looked up in a table, and those of loggers.
NAMES_ONLY = {"edgevit/checkpoints/torchfile.py", "edgevit/log.py"}
MODULES = sorted(
    path
    for folder in ("edgevit", "converters", "benchmarks")
    for path in (ROOT / folder).rglob("*.py")
    if "compat" not in path.parts
)


def is_private(name: str) -> bool:
    """Whether a dotted name is inside a library: "torch._inductor.exc", "nncf.common.quantization"."""
    first, *rest = name.split(".")
    if first == "importlib":
        return any(part.startswith("_") for part in rest)
    inside = any(name == one or name.startswith(f"{one}.") for one in PRIVATE)
    return first in LIBRARIES and (inside or any(part.startswith("_") and part != "__version__" for part in rest))


def private_uses(source: str) -> Iterator[str]:
    """Each use of a private name in a module's source, as "line: name"."""
    tree = ast.parse(source)
    nodes = list(ast.walk(tree))
    own = {node.name for node in nodes if isinstance(node, (ast.FunctionDef, ast.ClassDef))}
    own |= {node.attr for node in nodes if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store)}
    for node in nodes:
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and re.fullmatch(r"[\w.]+", node.value):
            names = [node.value]  # as for `require`
        elif isinstance(node, ast.Attribute) and _is_anothers(node, own):
            yield f"{node.lineno}: {ast.unparse(node)}"
        yield from (f"{node.lineno}: {name}" for name in names if is_private(name))


def _is_anothers(node: ast.Attribute, own: set[str]) -> bool:
    """Whether an attribute with an underscore belongs to something that this module did not make."""
    if not node.attr.startswith("_") or node.attr.startswith("__") or node.attr in DOCUMENTED:
        return False
    owner = ast.unparse(node.value)
    inherited = owner.startswith("super(")
    return inherited or (owner not in ("self", "cls") and node.attr not in own and not OPERATIONS.search(owner))


def test_private_names_of_libraries_stay_in_compat():
    uses = {str(path.relative_to(ROOT)): list(private_uses(path.read_text())) for path in MODULES}
    found = {path: names for path, names in uses.items() if names and path not in NAMES_ONLY}
    assert found == {}, "give each a function in edgevit/compat, and that a test in tests/edgevit/compat"


@pytest.mark.parametrize(
    "source",
    [
        "import torch._inductor",
        "from torch.nn.modules.batchnorm import _BatchNorm",
        "from torch.utils import _pytree",
        "from nncf.common.quantization import structs",
        'require("executorch.exir.passes", "executorch")',
        "from importlib import _bootstrap",
        "node.target._schema",
        "class A(B):\n    def _apply(self):\n        return super()._apply()",
        "torch._C._jit()",
    ],
)
def test_private_uses_are_found(source):
    assert list(private_uses(source))


@pytest.mark.parametrize(
    "source",
    [
        "from torch.export import default_decompositions",
        "torch.ops.aten._softmax.default",
        "row._asdict()",
        "class A:\n    def _b(self): ...\n    def c(self, other):\n        return other._b()",
        'require("coremltools.optimize.coreml", "coreml")',
    ],
)
def test_public_uses_are_no_finding(source):
    assert not list(private_uses(source))
