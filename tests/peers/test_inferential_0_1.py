"""The tests of inferential 0.1.0, as released, against this package."""

from __future__ import annotations

import subprocess
import sys
import tarfile

import pytest
from bench.environments import HOME

pytestmark = pytest.mark.peer

COUNT = 85


def test_the_tests_of_0_1_0_pass_as_they_are() -> None:
    home = HOME / "inferential-0.1.0-sdist"
    tests = home / "inferential-0.1.0" / "tests"
    if not tests.exists():
        pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--no-binary", ":all:"]
        # Its metadata is read by hatchling, which this environment has.
        arguments = ["--no-build-isolation", "--dest", str(home), "inferential==0.1.0"]
        done = subprocess.run([*pip, *arguments], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr[-2000:]
        with tarfile.open(home / "inferential-0.1.0.tar.gz") as archive:
            archive.extractall(home, filter="data")
    options = ("asyncio_mode=auto", "asyncio_default_fixture_loop_scope=function")
    ran = subprocess.run(
        [
            *(sys.executable, "-m", "pytest", str(tests), "--rootdir", str(tests.parent), "-c", "/dev/null", "-q"),
            *("-p", "no:cacheprovider", "-W", "ignore", "--import-mode=importlib"),
            *(part for option in options for part in ("-o", option)),
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    assert f"{COUNT} passed" in ran.stdout, ran.stdout[-3000:]
    assert ran.returncode == 0
