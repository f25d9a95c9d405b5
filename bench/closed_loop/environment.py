"""An environment with Inferential 1.4.0 and what the robots need, under .venv/peers; made once, it takes a minute.

The tests' own environment of 1.4.0 is another one: it has nothing beside it.
"""

from __future__ import annotations

import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

HOME = Path(__file__).parents[2] / ".venv" / "peers" / "inferential-1.4.0-robots"


def python() -> Path:
    """Its interpreter.

    Raises:
        RuntimeError: pip could not install what is needed.
    """
    python = HOME / "bin" / "python"
    wanted = [
        "inferential==1.4.0",
        *(f"{name}=={version(name)}" for name in ("mujoco", "gymnasium", "numpy", "onnxruntime")),
    ]
    ready = HOME / ".ready"
    if not ready.exists() or ready.read_text().split() != wanted:
        subprocess.run([sys.executable, "-m", "venv", "--clear", str(HOME)], check=True)
        pip = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *wanted]
        done = subprocess.run(pip, capture_output=True, text=True, check=False)
        if done.returncode:
            raise RuntimeError(f"cannot install {' '.join(wanted)}: {done.stderr[-2000:]}")
        ready.write_text("\n".join(wanted))
    return python
