"""What every test can count on: the scale and the source that the committed outputs have."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

# Before any kernel starts. `make test` sets both; this serves a bare `python -m pytest`.
os.environ.setdefault("SFT_TEACH_SCALE", "quick")
os.environ.setdefault("SFT_TEACH_SOURCE", "packaged")


@pytest.fixture(scope="session")
def repository() -> Path:
    """The folder of this project."""
    return Path(__file__).resolve().parents[1]
