"""Machines that artifacts run on: one file per address scheme, each a Device."""
