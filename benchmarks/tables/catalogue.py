"""Tables of what the code itself declares: models and exit codes."""

from __future__ import annotations

from edgevit import errors
from edgevit.models import iter_specs


def models() -> str:
    """Every model that `edgevit list` knows, with its published counts."""
    lines = [
        "| model | task | M params | G MACs | top-1 | pixels | tier | licence of the authors' weights | paper |",
        "|---|---|---:|---:|---:|---:|---|---|---|",
    ]
    for spec in iter_specs():
        cells = (
            f"`{spec.name}`",
            spec.task.value,
            f"{spec.params / 1e6:.2f}",
            f"{spec.macs / 1e9:.3f}",
            "–" if spec.top1 is None else f"{spec.top1:.1f}",
            str(spec.inputs[0].shape[-1]),
            spec.tier.value,
            spec.weights or "–",
            spec.paper,
        )
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def exit_codes() -> str:
    """Every class of error with its exit code and what it says."""
    classes = [
        value for value in vars(errors).values() if isinstance(value, type) and issubclass(value, errors.EdgevitError)
    ]
    lines = ["| code | error | meaning |", "|---:|---|---|", "| 0 | – | Done. |"]
    for error in sorted(classes, key=lambda one: one.exit_code):
        if error is not errors.EdgevitError:
            meaning = (error.__doc__ or "").strip().splitlines()[0]
            lines.append(f"| {error.exit_code} | `{error.__name__}` | {meaning} |")
    lines.append("| 130 | – | Interrupted. |")
    return "\n".join(lines) + "\n"
