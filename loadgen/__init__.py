"""Drives the mesh from outside: exchange simulator, tape player, clients, benchmarks."""
