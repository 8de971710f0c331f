"""Private names of libraries, one module per library; tests/edgevit/compat holds each to the pinned version.

Everywhere else the public interfaces alone are used: where a library changes inside, its module here is what changes.
"""
