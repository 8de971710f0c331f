"""Tries an installed edgevit from an empty folder, as a user's first minutes do; run by its environment's Python.

It stands outside pytest because the environment holds nothing but edgevit[tflite]: no checkout, no test tools.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

EDGEVIT = Path(sys.executable).parent / "edgevit"
ARTIFACT = "artifacts/van_b0-fp32-tflite"
TIMEOUT_S = 300


def edgevit(folder: Path, *arguments: str) -> str:
    """What the command prints on stdout; it must succeed."""
    started = time.perf_counter()
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"} | {"EDGEVIT_CACHE": ""}
    argv = [str(EDGEVIT), *arguments]
    done = subprocess.run(
        argv, cwd=folder, env=environment, capture_output=True, text=True, check=False, timeout=TIMEOUT_S
    )
    command = " ".join(["edgevit", *arguments])
    if done.returncode:
        sys.exit(f"{command} ended with {done.returncode}\n{done.stdout}{done.stderr}")
    print(f"== {command}: {time.perf_counter() - started:.1f} s", flush=True)
    return done.stdout


def expect(condition: bool, message: str) -> None:
    """End with the message unless the condition holds; `assert` would be silent under -O."""
    if not condition:
        sys.exit(message)


def main() -> None:
    """List, info, doctor, convert, verify and predict, each checked by its output."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        listed = edgevit(folder, "list")
        expect("van_b0" in listed and "tflite" in listed, f"list lacks a model or a target:\n{listed}")
        shown = edgevit(folder, "info", "van_b0", "--input-size", "64")
        expect("tflite" in shown, f"info does not say what tflite does with the model:\n{shown}")
        findings = json.loads(edgevit(folder, "doctor", "--json"))
        works = {finding["name"]: finding["works"] for finding in findings if finding["kind"] == "target"}
        expect(works.pop("tflite"), f"tflite does not work where it was installed: {findings}")
        expect(not works.pop("coreml"), "doctor finds coremltools where it was not installed")
        edgevit(folder, "convert", "van_b0", "--target", "tflite", "--input-size", "64")
        expect((folder / ARTIFACT / "manifest.json").is_file(), f"convert left no {ARTIFACT}")
        edgevit(folder, "verify", ARTIFACT)
        draw = "from PIL import Image; Image.new('RGB', (80, 60), (200, 30, 30)).save('image.png')"
        subprocess.run([sys.executable, "-c", draw], cwd=folder, check=True, timeout=TIMEOUT_S)
        predicted = json.loads(edgevit(folder, "predict", ARTIFACT, "image.png", "--json"))
        expect(len(predicted) == 1 and bool(predicted[0]), f"predict printed {predicted}")


if __name__ == "__main__":
    main()
