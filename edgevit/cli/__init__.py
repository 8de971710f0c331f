"""The command line: main.py finds the command, each command lives in the file of its name."""
