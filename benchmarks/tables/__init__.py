"""`python -m benchmarks.tables`: puts the committed results into README, between its markers.

A marker pair is `<!-- table: NAME -->` ... `<!-- /table -->`; TABLES says which function makes NAME. A test renders
README again and compares, so a number that was typed by hand does not survive.
"""

from __future__ import annotations

import re

from benchmarks.tables import accuracy, conversions, speeds

TABLES = {
    table.__name__: table
    for table in (
        accuracy.recipes,
        accuracy.demo,
        accuracy.int8,
        accuracy.compressed,
        conversions.conversion,
        conversions.server_conversion,
        conversions.coreml_options,
        conversions.sizes,
        conversions.cost,
        conversions.interpreter,
        speeds.compare_runtimes,
        speeds.compare_runtimes_int8,
        speeds.operations,
        speeds.server,
    )
}
_MARKED = re.compile(r"(<!-- table: ([a-z0-9_]+) -->\n).*?(<!-- /table -->)", re.S)


def render(text: str) -> str:
    """README's text with every marked table made anew."""
    return _MARKED.sub(lambda match: match[1] + TABLES[match[2]]() + match[3], text)
