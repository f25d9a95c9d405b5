"""Released peers, each in a virtual environment of its own under .venv/peers, made once."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
from bench.environments import HOME, made


def with_openpi_client() -> Path:
    """The interpreter of an environment with openpi's client; it needs an older numpy than we have."""
    return made("openpi-client", "openpi-client==0.1.2", "typing_extensions", "numpy<2")


def with_openpi_server() -> Path:
    """The interpreter of an environment with openpi's policy server, which needs the client's codec."""
    return made("openpi-server-0.1.0", "openpi-server==0.1.0", "openpi-client==0.1.2", "typing_extensions")


def with_franka() -> Path:
    """The interpreter of an environment with a Franka robot's policy adapter, which asks over openpi's client."""
    return made("franka-0.1.0", "inspect-robots-franka==0.1.0", "openpi-client==0.1.2", "typing_extensions")


def with_unitree_g1() -> Path:
    """The interpreter of an environment with a Unitree G1's GR00T client and what it asks for at run time."""
    return made("unitree-g1-0.1.1", "inspect-robots-unitree-g1==0.1.1", "pyzmq", "msgpack", "msgpack-numpy")


def with_yam() -> Path:
    """The interpreter of an environment with a YAM robot's client of POST /act, json-numpy and requests."""
    return made("yam-0.37.0", "inspect-robots-yam==0.37.0")


def with_tritonclient() -> Path:
    """The interpreter of an environment with Triton's clients over HTTP and gRPC."""
    return made("tritonclient-2.73.0-grpc", "tritonclient[grpc,http]==2.73.0")


def with_lerobot() -> Path:
    """The interpreter of an environment with LeRobot, which needs Python 3.12 and, with torch, 5.5 GB.

    It is made only where LEROBOT_PYTHON names an interpreter of Python 3.12 and the disk has 20 GB left.
    """
    interpreter = os.environ.get("LEROBOT_PYTHON")
    if not interpreter:
        pytest.skip("installs 5.5 GB: set LEROBOT_PYTHON to an interpreter of Python 3.12 to run it")
    if not (HOME / "lerobot-0.6.1" / ".ready").exists() and shutil.disk_usage(HOME.parent).free < 20e9:
        pytest.skip("needs 20 GB of free disk")
    return made("lerobot-0.6.1", "lerobot[async,dataset]==0.6.1", interpreter=interpreter)


async def run_client(python: Path, script: str, *args: str) -> Any:
    """What a program of that interpreter prints, as JSON."""
    process = await asyncio.create_subprocess_exec(
        str(python), "-c", script, *args, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    out, err = await asyncio.wait_for(process.communicate(), 90)
    assert process.returncode == 0, err.decode()
    return json.loads(out)


@pytest.fixture(scope="session")
def inferential_1_4() -> Path:
    """The Python interpreter of an environment with inferential 1.4.0 from PyPI."""
    return made("inferential-1.4.0", "inferential==1.4.0")
