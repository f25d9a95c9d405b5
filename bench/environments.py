"""Environments with other software, under .venv/peers, each made once."""

from __future__ import annotations

import subprocess
import sys
import sysconfig
from pathlib import Path

HOME = Path(__file__).parents[1] / ".venv" / "peers"
# Neither a pip of its own nor compiled modules: half of the time that an environment takes.
_PIP = (sys.executable, "-m", "pip", "--disable-pip-version-check", "--python")
_INSTALL = ("install", "--quiet", "--no-compile")


def made(name: str, *requirements: str, interpreter: str = sys.executable, beside_ours: bool = False) -> Path:
    """Returns the interpreter of an environment with these packages; makes it where there is none with just them.

    Args:
        name: its folder under .venv/peers.
        requirements: as pip takes them.
        interpreter: the Python that it is made of.
        beside_ours: whether what it does not have itself is imported from this environment, all but this software.

    Raises:
        RuntimeError: pip could not install what is needed.
    """
    home = HOME / name
    python, ready = home / "bin" / "python", home / ".ready"
    wanted = "\n".join(requirements)
    if ready.exists() and ready.read_text() == wanted:
        return python
    ready.unlink(missing_ok=True)
    subprocess.run([interpreter, "-m", "venv", "--without-pip", "--clear", str(home)], check=True)
    if beside_ours:  # this software is there by a file of the same kind, and those are not followed
        packages = home / "lib" / f"python{sysconfig.get_python_version()}" / "site-packages"
        (packages / "beside.pth").write_text(sysconfig.get_path("purelib"))
    pip(python, *_INSTALL, *requirements)
    ready.write_text(wanted)
    return python


def pip(python: Path, *args: str) -> str:
    """Runs our pip for another interpreter; returns what it says.

    Raises:
        RuntimeError: it failed.
    """
    done = subprocess.run([*_PIP, str(python), *args], capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"pip {' '.join(args)} failed: {(done.stdout + done.stderr)[-2000:]}")
    return done.stdout
