"""The shape of the project: who may import whom, and that plug-ins exist."""

from __future__ import annotations

import ast
import json
import tomllib
from pathlib import Path

import pytest

import edgevit
from edgevit.contract.schema import load_schema
from edgevit.models import iter_specs
from edgevit.targets.registry import converter_names, get_converter

ROOT = Path(edgevit.__file__).resolve().parent.parent
PACKAGES = {"edgevit"}
MODULES = sorted(path for folder in ("edgevit", "converters") for path in (ROOT / folder).rglob("*.py"))
HEAVY = {"torch", "numpy", "tensorflow", "coremltools", "executorch", "lightning", "plotly", "ai_edge_litert"}
# Low to high: a package imports from what stands left of it, and never from a neighbour between the same signs.
ORDER = (
    "errors log _version < infra spec < compat < data < contract < graph < models export < checkpoints deploy "
    "< training < quantization < mil < targets < artifacts < verification reporting < conversion profiling "
    "< app_bundle environment inventory model_summary < __init__ < cli < __main__"
)
LEVELS = {name: level for level, names in enumerate(ORDER.split("<")) for name in names.split()}
NOT_FOR_CONVERTERS = {"models", "checkpoints", "training", "deploy"}  # of what lies at or below `targets`


def _imports(path: Path, *, top_level_only: bool = False) -> set[str]:
    tree = ast.parse(path.read_text())
    body = tree.body if top_level_only else list(ast.walk(tree))
    names: set[str] = set()
    for node in body:
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def _part(module: str) -> str:
    """ "edgevit.data.digits" -> "data"; names that the package itself offers count as its `__init__`."""
    parts = module.split(".")
    return parts[1] if len(parts) > 1 and parts[1] in LEVELS else "__init__"


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_point_one_way(path):
    top, *_ = part = path.relative_to(ROOT).with_suffix("").parts
    imports = _imports(path)
    assert not {name for name in imports if name.split(".")[0] in ("benchmarks", "tests")}
    own = {name for name in imports if name.split(".")[0] == "edgevit"}
    taken = {_part(name) for name in own if name not in PACKAGES}
    if top == "converters":
        allowed = {name for name, level in LEVELS.items() if level <= LEVELS["targets"]} - NOT_FOR_CONVERTERS
        assert taken <= allowed - ({"mil"} if part[1] != "coreml" else set())
        assert {name.split(".")[1] for name in imports if name.startswith("converters.")} <= {part[1]}
        return
    assert not {name for name in imports if name.split(".")[0] == "converters"}
    if part[1] == "__init__":
        return  # the facade names what it loads when it is asked for
    assert {name for name in taken - {part[1]} if LEVELS[name] >= LEVELS[part[1]]} == set()


def test_every_package_has_its_place_in_the_order():
    found = {
        path.stem for path in (ROOT / "edgevit").iterdir() if path.suffix == ".py" or (path / "__init__.py").exists()
    }
    assert found <= set(LEVELS)
    assert not {path.name for path in MODULES} & {"utils.py", "helpers.py", "misc.py", "common.py"}


LEAN = [
    p for p in MODULES if p.parts[-2] == "cli" or (p.parts[-3] == "converters" and p.stem in ("__init__", "converter"))
]


@pytest.mark.parametrize("path", LEAN, ids=lambda path: str(path.relative_to(ROOT)))
def test_commands_and_converters_import_nothing_heavy(path):
    assert not {name.split(".")[0] for name in _imports(path, top_level_only=True)} & HEAVY


def test_spec_and_contract_know_no_torch():
    for path in [ROOT / "edgevit/spec.py", *(ROOT / "edgevit/contract").glob("*.py")]:
        assert "torch" not in {name.split(".")[0] for name in _imports(path, top_level_only=True)}, path


def test_only_infra_starts_programs():
    for path in MODULES:
        if path != ROOT / "edgevit/infra/process.py":
            assert not {"subprocess", "pty"} & {name.split(".")[0] for name in _imports(path)}, path


def test_no_module_has_the_name_of_a_public_function():
    modules = {path.stem for path in (ROOT / "edgevit").iterdir() if path.suffix == ".py" or path.is_dir()}
    assert not modules & set(edgevit.__all__)
    for name in edgevit.__all__:
        assert callable(getattr(edgevit, name)), name


def test_entry_points_name_converters():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    declared = project["entry-points"]["edgevit.converters.v2"]
    assert set(declared) == set(converter_names())
    for name in declared:
        converter = get_converter(name)
        assert converter.name == name
        assert converter.extra in project["optional-dependencies"]


def test_every_model_has_a_unique_name_and_its_family_file():
    names = [spec.name for spec in iter_specs()]
    assert len(names) == len(set(names))
    for name in names:
        assert any(path.stem in name for path in (ROOT / "edgevit/models").glob("*.py")), name


@pytest.mark.parametrize("name", ["manifest", "job", "raw_report"])
def test_schemas_are_valid_and_say_what_they_are(name):
    import jsonschema

    schema = load_schema(name)
    jsonschema.Draft202012Validator.check_schema(schema)
    assert schema["title"]
    json.dumps(schema)
