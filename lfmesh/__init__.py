"""LedgerFlux Mesh: a brokerless market-data mesh."""

__version__ = "0.1.0"
