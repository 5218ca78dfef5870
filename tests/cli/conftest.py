"""The tests' own environment must not configure what they run."""

import os

import pytest


@pytest.fixture(autouse=True)
def _no_lfmesh_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("LFMESH_")]:
        monkeypatch.delenv(name)
