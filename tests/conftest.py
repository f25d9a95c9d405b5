"""What holds for all tests: no deadlines of examples, and which run beside no other of their kind (`make test`)."""

from __future__ import annotations

import os
import re
import secrets
import signal
import sys
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from hypothesis import settings

# Where this is set, each of the hundreds of processes that tests start compiles the package anew, 0.27 of the 0.93 s of
# CPU that the import of a server takes; and each process of the tests all modules of tests, 8 of 15 s.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False

# Else Ray makes one in the home directory, where two that begin at once take each other's.
os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))

# A shell without job control has what it starts in the background ignore SIGINT, and that is inherited.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

settings.register_profile("any machine", deadline=None)  # how busy it is decides no test
settings.load_profile("any machine")

REAL_TIME = (
    "tests/bench/test_fleet.py",
    "tests/bench/test_soak.py",
    "tests/bench/test_stages.py",
    "tests/cli/test_demo.py",
    "tests/client/chunks/test_runtime.py",
    "tests/gateway/test_act_peers.py",
    "tests/gateway/test_kserve_peers.py",
    "tests/gateway/test_lerobot_peers.py",
    "tests/gateway/test_peers.py",
    "tests/peers/",
    "tests/policies/test_lerobot.py",
    "tests/policies/test_torchscript.py",
    "tests/sim/test_closed_loop.py",
    "tests/sim/test_demo.py",
    "tests/web/test_page.py",
)
"""They drive robots in real time or start many processes; of these one runs at a time."""
RAY = ("tests/dispatch/ray/",)
"""They share one Ray, and mostly wait for it. Beside another on this machine a program would find the wrong one, by the
file that Ray writes for all (`ray_current_cluster`), and end what runs there."""
OWN_SERVER = ("tests/cli/test_robot_keys.py", "tests/server/test_memory.py")
"""All tests of such a file ask one server, which is started once."""


FIRST = ("real time", "Ray")
"""Groups whose tests take longest together."""
NICE = 5
"""Of processes with tests of neither kind, and of those that they start."""


def group_of(nodeid: str) -> str:
    """Returns what a test shares with others that must run in the same process, one after another; "": nothing.

    That is real time, Ray, a server of its file, or the block of a page that starts one.
    """
    if nodeid.startswith(REAL_TIME):
        return "real time"
    if nodeid.startswith(RAY) or "[ray.md" in nodeid or "[with-ray.md" in nodeid:
        return "Ray"
    if nodeid.startswith(OWN_SERVER):
        return nodeid.partition("::")[0]
    found = re.search(r"^tests/docs/.*against_a_server\[(.*:\d+)-", nodeid)
    return found[1] if found else ""


class LongestFirst(OrderedDict[str, Any]):
    """Groups and functions that no process has yet; those of FIRST are taken first."""

    def popitem(self, last: bool = True) -> tuple[str, Any]:
        group = next((one for one in FIRST if one in self), None)
        return super().popitem(last) if group is None else (group, self.pop(group))


@pytest.hookimpl(optionalhook=True)  # of pytest-xdist
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Gives each group to one process, those of FIRST and then the largest first of all, the rest to whichever is free.

    The cases of one function go together, which takes less of the process that gives out tests, and of fixtures.

    pytest-xdist's own groups (3.8) have no effect with pytest 9.2: they are put into ids, which no longer change.
    """
    from xdist.scheduler.loadscope import LoadScopeScheduling

    class OneAtATime(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            return group_of(nodeid) or nodeid.partition("[")[0]

    scheduler = OneAtATime(config, log)
    scheduler.workqueue = LongestFirst()
    return scheduler


@pytest.fixture
def short_path() -> Iterator[Path]:
    """A folder of the test in which a Unix socket can have its name, however long TMPDIR is."""
    with TemporaryDirectory(prefix="test-", dir="/tmp") as folder:
        yield Path(folder)


@pytest.fixture
def pass_time(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """`pass_time(10.0)`: of this process all clocks and timers of event loops are so many seconds on, at once."""
    ahead_s, monotonic = 0.0, time.monotonic

    def go_on(seconds: float) -> None:
        nonlocal ahead_s
        ahead_s += seconds

    monkeypatch.setattr(time, "monotonic", lambda: monotonic() + ahead_s)
    return go_on


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Has the processors go first to what takes longest, and is in real time: a process that has done it steps back."""
    in_parallel = "PYTEST_XDIST_WORKER" in os.environ
    if in_parallel and group_of(item.nodeid) not in FIRST and os.getpriority(os.PRIO_PROCESS, 0) < NICE:
        os.setpriority(os.PRIO_PROCESS, 0, NICE)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if " at 0x" in item.nodeid:
            raise pytest.UsageError(f"{item.nodeid}: an address differs from process to process; give the case an id")
        if item.nodeid.startswith(RAY) and item.get_closest_marker("timeout") is None:
            item.add_marker(pytest.mark.timeout(900))  # each process that Ray begins takes seconds of a core
