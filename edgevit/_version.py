"""The version, and nothing else: the package metadata and every manifest read it here."""

__version__ = "0.1.0"
