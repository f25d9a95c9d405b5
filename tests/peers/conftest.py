"""Released peers, each in a virtual environment of its own under .venv/peers, made once."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

PEERS = Path(__file__).parents[2] / ".venv" / "peers"


def python_of(name: str, *requirements: str) -> Path:
    home = PEERS / name
    python = home / "bin" / "python"
    ready = home / ".ready"
    if not ready.exists():
        subprocess.run([sys.executable, "-m", "venv", "--clear", str(home)], check=True)
        pip = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *requirements]
        done = subprocess.run(pip, capture_output=True, text=True, check=False)
        if done.returncode:
            pytest.fail(f"cannot install {' '.join(requirements)}: {done.stderr[-2000:]}")
        ready.touch()
    return python


def with_openpi_client() -> Path:
    """The interpreter of an environment with openpi's client; it needs an older numpy than we have."""
    return python_of("openpi-client", "openpi-client==0.1.2", "typing_extensions", "numpy<2")


@pytest.fixture(scope="session")
def inferential_1_4() -> Path:
    """The Python interpreter of an environment with inferential 1.4.0 from PyPI."""
    return python_of("inferential-1.4.0", "inferential==1.4.0")
