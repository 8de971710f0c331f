"""constraints.txt fixes all that an installation takes, what CUDA takes too, and asks for nothing of it."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError, distributions, requires
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import edgevit
from edgevit._version import __version__

ROOT = Path(edgevit.__file__).resolve().parent.parent
CUDA = re.compile(r"(nvidia|cuda)-.+|triton")
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
LINES = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if not line.startswith("#")]
PINS = {canonicalize_name(name): version for name, version in (line.split("==") for line in LINES)}
CUDA_PINS = [name for name in PINS if CUDA.fullmatch(name)]


def direct_requirements() -> list[Requirement]:
    """What pyproject.toml asks for, in any extra."""
    extras = PROJECT["optional-dependencies"].values()
    wanted = [Requirement(text) for text in [*PROJECT["dependencies"], *(text for extra in extras for text in extra)]]
    return [requirement for requirement in wanted if requirement.name != PROJECT["name"]]


def write_wheel(folder: Path, name: str, version: str, requirements: Iterable[str], extras: Iterable[str] = ()) -> None:
    """An empty distribution with these requirements."""
    stem = f"{name.replace('-', '_')}-{version}"
    lines = ["Metadata-Version: 2.1", f"Name: {name}", f"Version: {version}"]
    lines += [f"Provides-Extra: {extra}" for extra in extras]
    lines += [f"Requires-Dist: {requirement}" for requirement in requirements]
    with zipfile.ZipFile(folder / f"{stem}-py3-none-any.whl", "w") as wheel:
        wheel.writestr(f"{stem}.dist-info/METADATA", "\n".join(lines) + "\n")
        wheel.writestr(f"{stem}.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr(f"{stem}.dist-info/RECORD", "")


def installed_requirements(name: str) -> list[str]:
    """What a distribution asks for where it is installed."""
    try:
        return requires(name) or []
    except PackageNotFoundError:  # pinned for another platform
        return []


def asks_for_cuda(text: str) -> bool:
    return CUDA.fullmatch(canonicalize_name(Requirement(text).name)) is not None


def write_wheels(folder: Path, *, cuda: bool) -> None:
    """A stand-in for edgevit and for every pin, with the true requirements; without CUDA as in a CPU build of torch."""
    for name, version in PINS.items():
        if cuda or name not in CUDA_PINS:
            local = "+cpu" if name == "torch" and not cuda else ""
            wanted = [text for text in installed_requirements(name) if cuda or not asks_for_cuda(text)]
            extras = {extra for text in wanted for extra in re.findall(r"extra == [\"']([^\"']+)", text)}
            write_wheel(folder, name, version + local, wanted, extras)
    own = list(PROJECT["dependencies"])
    for extra, texts in PROJECT["optional-dependencies"].items():
        own += [f'{text}; extra == "{extra}"' for text in texts]
    write_wheel(folder, PROJECT["name"], __version__, own, PROJECT["optional-dependencies"])


def resolve(wheels: Path) -> dict[str, str]:
    """Versions that pip would install of `edgevit[dev]` by the constraints, from these wheels alone."""
    if not any(distributions(name="pip")):  # importing pip would disturb setuptools in this process
        pytest.skip("pip is missing")
    argv = [sys.executable, "-m", "pip", "--isolated", "install", "--disable-pip-version-check", "--quiet"]
    argv += ["--dry-run", "--ignore-installed", "--no-index", "--find-links", str(wheels)]
    argv += ["--constraint", str(ROOT / "constraints.txt"), "--report", str(wheels / "report.json"), "edgevit[dev]"]
    done = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr
    chosen = [entry["metadata"] for entry in json.loads((wheels / "report.json").read_text())["install"]]
    return {canonicalize_name(one["name"]): one["version"] for one in chosen}


def setup_commands(*variables: str) -> list[str]:
    """The calls of pip that `make setup` would make in a fresh checkout."""
    if shutil.which("make") is None:
        pytest.skip("make is missing")
    environment = {name: value for name, value in os.environ.items() if name not in ("MAKEFLAGS", "TORCH_INDEX")}
    argv = ["make", "--dry-run", "--always-make", "setup", *variables]
    done = subprocess.run(argv, cwd=ROOT, env=environment, capture_output=True, text=True, check=True, timeout=60)
    return [line for line in done.stdout.splitlines() if "pip install" in line]


def test_every_requirement_is_pinned_within_its_range_and_none_is_cudas():
    for requirement in direct_requirements():
        assert requirement.specifier.contains(PINS[canonicalize_name(requirement.name)]), requirement
        assert not CUDA.fullmatch(canonicalize_name(requirement.name)), requirement
    assert "://" not in (ROOT / "constraints.txt").read_text()


def test_no_code_names_a_distribution_of_cuda():
    assert CUDA_PINS
    names = re.compile(rf"\b({'|'.join(CUDA_PINS)})\b|^\s*(import|from) (nvidia|cuda|triton)\b", re.M)
    files = [path for folder in ("edgevit", "converters", "benchmarks") for path in (ROOT / folder).rglob("*.*")]
    for path in [ROOT / "pyproject.toml", ROOT / "Makefile", *files]:
        if path.suffix in (".py", ".toml", ".txt", ""):
            assert not names.search(path.read_text()), path


def test_pins_resolve_without_cuda_where_torch_is_a_cpu_build(tmp_path):
    write_wheels(tmp_path, cuda=False)
    versions = resolve(tmp_path)
    assert versions["torch"] == PINS["torch"] + "+cpu"
    assert {canonicalize_name(requirement.name) for requirement in direct_requirements()} <= set(versions)
    assert not set(versions) & set(CUDA_PINS)


def test_pins_resolve_with_all_that_the_cuda_build_of_torch_asks_for(tmp_path):
    if not any(asks_for_cuda(text) for text in installed_requirements("torch")):
        pytest.skip("the CUDA build of torch is missing")
    write_wheels(tmp_path, cuda=True)
    assert set(resolve(tmp_path)) >= set(CUDA_PINS)


def test_setup_takes_torch_alone_from_the_index_that_is_given():
    everything = setup_commands()
    torch, rest = setup_commands("TORCH_INDEX=file:///cpu")
    assert [rest] == everything
    assert "index-url" not in rest
    assert torch.endswith("--constraint constraints.txt --no-deps --index-url 'file:///cpu' torch")
