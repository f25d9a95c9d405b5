"""Environments with other software and what the robots need, under .venv/peers; each is made once, in a minute.

The tests' own environment of 1.4.0 is another one: it has nothing beside it.
"""

from __future__ import annotations

import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

HOME = Path(__file__).parents[2] / ".venv" / "peers"
_ROBOTS = ("mujoco", "gymnasium", "onnxruntime")
PEERS = {
    "1.4.0": ("with_inferential_1_4.py", ("inferential==1.4.0",)),
    "LitServe": ("with_litserve.py", ("litserve==0.2.19", "protobuf")),
    "Ray Serve": ("with_ray_serve.py", ("ray[serve]==2.60.0", "protobuf")),
    "openpi-server": (
        "with_openpi.py",
        ("openpi-server==0.1.0", "openpi-client==0.1.2", "typing_extensions", "protobuf"),
    ),
}
"""By the name that is shown: the program, and what its environment has beside the robots."""


def python(name: str) -> Path:
    """Returns the interpreter of a peer.

    Raises:
        RuntimeError: pip could not install what is needed.
    """
    _, requirements = PEERS[name]
    home = HOME / f"{requirements[0].replace('[serve]', '').replace('==', '-')}-robots"
    python = home / "bin" / "python"
    pinned = [f"{package}=={version(package)}" for package in _ROBOTS]
    wanted = [*requirements, "numpy", *pinned]  # which numpy is theirs to say
    ready = home / ".ready"
    if not ready.exists() or ready.read_text().split() != wanted:
        subprocess.run([sys.executable, "-m", "venv", "--clear", str(home)], check=True)
        pip = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *wanted]
        done = subprocess.run(pip, capture_output=True, text=True, check=False)
        if done.returncode:
            raise RuntimeError(f"cannot install {' '.join(wanted)}: {done.stderr[-2000:]}")
        ready.write_text("\n".join(wanted))
    return python


def program(name: str) -> Path:
    """Returns the file that runs a peer."""
    return Path(__file__).parent / "peers" / PEERS[name][0]
