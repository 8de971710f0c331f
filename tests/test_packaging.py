"""The wheel holds what the checkout holds: every module and every file that is no Python."""

from __future__ import annotations

import email
import shutil
import subprocess
import sys
import zipfile
from importlib.metadata import distributions
from pathlib import Path

import pytest

import edgevit
from edgevit._version import __version__

ROOT = Path(edgevit.__file__).resolve().parent.parent
PACKAGES = ("edgevit", "converters")


def tracked(*paths: str) -> set[str]:
    """Files under these paths that git knows or would take, but not the ignored ones."""
    argv = ["git", "-C", str(ROOT), "ls-files", "--cached", "--others", "--exclude-standard", "--", *paths]
    try:
        listed = subprocess.run(argv, capture_output=True, text=True, check=True, timeout=60).stdout.split("\n")
    except (FileNotFoundError, subprocess.CalledProcessError):
        pytest.skip("git or its checkout is missing")
    return {name for name in listed if name and (ROOT / name).is_file()}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    """The wheel of a copy of the checkout; a build folder left in the checkout itself would leak into it."""
    if not any(distributions(name="pip")):
        pytest.skip("pip is missing")
    copy, built = tmp_path_factory.mktemp("checkout"), tmp_path_factory.mktemp("dist")
    for name in tracked(*PACKAGES, "pyproject.toml", "README.md", "LICENSE"):
        (copy / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(ROOT / name, copy / name)
    argv = [sys.executable, "-m", "pip", "--isolated", "wheel", "--disable-pip-version-check", "--no-deps"]
    argv += ["--no-index", "--no-build-isolation", "--wheel-dir", str(built), str(copy)]
    done = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    (path,) = built.glob("*.whl")
    return zipfile.ZipFile(path)


def test_wheel_holds_every_file_of_the_packages_and_no_other(wheel):
    packed = {name for name in wheel.namelist() if ".dist-info/" not in name}
    expected = tracked(*PACKAGES)
    assert any(not name.endswith(".py") for name in expected)
    assert packed == expected


def test_metadata_says_the_version_of_the_code_and_that_it_is_typed(wheel):
    (name,) = (name for name in wheel.namelist() if name.endswith(".dist-info/METADATA"))
    metadata = email.message_from_bytes(wheel.read(name))
    assert metadata["Version"] == __version__
    assert "Typing :: Typed" in metadata.get_all("Classifier")
    assert {f"{package}/py.typed" for package in PACKAGES} <= set(wheel.namelist())


def test_requirements_are_ranges(wheel):
    (name,) = (name for name in wheel.namelist() if name.endswith(".dist-info/METADATA"))
    for requirement in email.message_from_bytes(wheel.read(name)).get_all("Requires-Dist"):
        assert "==" not in requirement.split(";")[0], requirement
