"""Program -> .pt2 package, by torch's Inductor and the system's compiler."""

from __future__ import annotations

import json
import warnings
from pathlib import Path

from converters.aotinductor.package import FACTS, package_facts
from edgevit.compat.torch import compile_aoti_package
from edgevit.errors import ConversionError
from edgevit.export.half_precision import cast_to_precision
from edgevit.export.program import Program
from edgevit.log import captured_native_output


def compile_package(program: Program, accelerator: str, path: Path) -> None:
    """Compile for the instructions of this machine's processor, or for its CUDA device, and write one file.

    The number of threads is that of the process that runs it, not of this one. Raises ConversionError with the last
    line of the compilers' output.
    """
    exported = cast_to_precision(program)
    if accelerator != "cpu":
        from torch.export.passes import move_to_device_pass

        exported = move_to_device_pass(exported, accelerator)
    settings = {
        "cpp.dynamic_threads": True,
        "aot_inductor.precompile_headers": False,  # takes as long as it saves, once
        "aot_inductor.metadata": {FACTS: json.dumps(package_facts(program, accelerator))},
    }
    with captured_native_output(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            compile_aoti_package(exported, path, settings)
        except (RuntimeError, OSError) as error:
            lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
            raise ConversionError(
                f"Inductor cannot compile {program.spec.name}: {lines[0][:300]}",
                fix="`edgevit doctor` looks for the C++ compiler that it needs; --debug shows all of it",
            ) from error
