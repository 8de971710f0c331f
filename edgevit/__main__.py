"""`python -m edgevit` is `edgevit`."""

from edgevit.cli.main import main

main()
