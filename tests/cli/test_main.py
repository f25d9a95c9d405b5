"""What all commands share: help, errors, exit codes, plain and rich output."""

from __future__ import annotations

import importlib
import os
import pty
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from inferential.cli import app as app_module
from inferential.cli import output
from inferential.cli.app import COMMANDS, build

OWN = (
    "serve",
    "demo",
    "simulate",
    "call",
    "bench",
    "top",
    "models",
    "why",
    "advise",
    "export",
    "replay",
    "check",
    "keys",
    "plan",
    "profile",
    "schedulers",
    "version",
)


@pytest.mark.parametrize("args", [(), ("--help",), ("-h",), ("--debug",)])
def test_without_a_command_the_help_lists_them_all(run: Any, args: tuple[str, ...]) -> None:
    ran = run(*args)
    assert ran.code == 0
    assert all(name in ran.out and summary in ran.out for name, summary in COMMANDS.items())
    assert "inferential serve fleet.yaml" in ran.out
    assert ran.err == ""


@pytest.mark.parametrize("args", [("keys",), ("keys", "new")])
def test_a_command_with_commands_of_its_own_lists_them_alone(run: Any, args: tuple[str, ...]) -> None:
    assert run(*args) == run(*args, "--help")


@pytest.mark.parametrize("name", OWN)
def test_each_command_has_help_with_examples_and_its_summary_first(run: Any, name: str) -> None:
    ran = run(name, "--help")
    assert ran.code == 0
    assert "Examples:" in ran.out
    module = importlib.import_module(f"inferential.cli.{name}")
    shown = " ".join(ran.out.split())  # a long one takes two lines
    assert all(example in shown for example in module.EXAMPLES)
    if not hasattr(module, "APP"):  # whose help is the table's
        assert getattr(module, name).__doc__.splitlines()[0] == COMMANDS[name]


@pytest.mark.parametrize("name", OWN)
def test_commands_work_in_typers_own_runner(name: str) -> None:
    ran = CliRunner().invoke(build(), [name, "--help"])
    assert ran.exit_code == 0
    assert COMMANDS[name] in ran.output


@pytest.mark.parametrize(
    ("args", "error"),
    [
        (("serv",), "error: No such command 'serv'."),
        (("keys", "new", "arm-01"), "error: No such command 'arm-01'. There is: server, client. (try: "),
        (("version", "--jsn"), "--jsn"),
        (("version", "x"), "unexpected extra argument"),
        (("--no-such-option",), "error: No such option: --no-such-option"),
        (("serve", "--log-level", "loud"), "'loud' is not one of"),
        (("serve", "--bind"), "--bind"),
    ],
)
def test_a_wrong_command_line_is_one_line_on_standard_error(run: Any, args: tuple[str, ...], error: str) -> None:
    ran = run(*args)
    assert ran.code == 2
    assert ran.out == ""
    assert error in ran.err
    assert ran.err.startswith("error: ")
    assert ran.err.count("\n") == 1
    assert "--help)" in ran.err


@pytest.mark.parametrize("args", [("--debug", "serve"), ("serve", "--debug")])
def test_debug_adds_the_traceback_wherever_it_stands(run: Any, args: tuple[str, ...]) -> None:
    ran = run(*args)
    assert ran.code == 2
    assert ran.err.startswith("Traceback")
    assert ran.err.splitlines()[-1].startswith("error: no models to serve")


def test_an_unexpected_error_is_one_line_too(run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("inferential.cli.schedulers.strategy_names", lambda: {}["x\ny"])
    ran = run("schedulers")
    assert ran.code == 2
    assert ran.err == "error: unexpected KeyError: 'x\\ny' (--debug shows where)\n"


def test_an_interrupt_ends_with_its_own_code(run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted() -> list[str]:
        raise KeyboardInterrupt

    monkeypatch.setattr("inferential.cli.schedulers.strategy_names", interrupted)
    assert run("schedulers").code == 130


@pytest.mark.parametrize("unbuffered", ["", "1"])
@pytest.mark.parametrize("args", ["schedulers --json", "check"])
def test_a_reader_that_leaves_is_no_error(place: Path, args: str, unbuffered: str) -> None:
    script = f"{sys.executable} -m inferential {args} | true; exit ${{PIPESTATUS[0]}}"
    env = {**os.environ, "PYTHONUNBUFFERED": unbuffered}
    ran = subprocess.run(["bash", "-c", script], capture_output=True, text=True, timeout=60, check=False, env=env)
    assert (ran.returncode, ran.stderr) == (141, "")


@pytest.mark.parametrize("unbuffered", ["", "1"])
@pytest.mark.parametrize("args", [("version",), ("version", "--json"), ("--help",), ("check",)])
def test_a_full_disk_is_an_error_that_says_so(place: Path, args: tuple[str, ...], unbuffered: str) -> None:
    env = {**os.environ, "PYTHONUNBUFFERED": unbuffered}
    with open("/dev/full", "w") as full:
        command = [sys.executable, "-m", "inferential", *args]
        ran = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, timeout=60, check=False, env=env)
    assert ran.returncode == 2
    assert ran.stderr == "error: cannot write to standard output: No space left on device\n"


def test_letters_that_the_terminal_has_not_are_escaped(place: Path) -> None:
    (place / "f.yaml").write_text('models: {known: {"räuber": {target: "policies:echo"}}}', encoding="utf-8")
    command = [sys.executable, "-m", "inferential", "check", "f.yaml"]
    env = {**os.environ, "PYTHONIOENCODING": "ascii"}
    ran = subprocess.run(command, env=env, capture_output=True, timeout=60, check=False)
    assert ran.returncode == 0
    assert b"models.known.r\\xe4uber.target" in ran.stdout


def test_an_error_that_cannot_be_written_still_is_the_exit_code(place: Path) -> None:
    with open("/dev/full", "w") as full:
        command = [sys.executable, "-m", "inferential", "serve", "none.yaml"]
        ran = subprocess.run(command, stdout=subprocess.PIPE, stderr=full, timeout=60, check=False)
    assert (ran.returncode, ran.stdout) == (2, b"")


def test_ctrl_c_is_handled_before_more_than_the_first_module_is_imported(place: Path) -> None:
    script = "import sys, inferential.cli.main; print(*(name for name in sys.modules if 'inferential' in name))"
    ran = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=True)
    assert set(ran.stdout.split()) == {"inferential", "inferential.errors", "inferential.cli", "inferential.cli.main"}


@pytest.mark.parametrize("run", ["thread", "process"])
def test_ctrl_c_ends_a_check_of_a_model_that_takes_long(start: Any, place: Path, run: str) -> None:
    (place / "slow.py").write_text("import pathlib, time\npathlib.Path('begun').touch()\ntime.sleep(600)\n")
    (place / "fleet.yaml").write_text(f"models: {{known: {{arm: {{target: 'slow:Policy', run: {run}}}}}}}")
    checking = start("check", "--import", "fleet.yaml")
    while not (place / "begun").exists() and checking.poll() is None:
        time.sleep(0.01)
    checking.send_signal(signal.SIGINT)
    out, err = checking.communicate(timeout=60)
    assert (checking.returncode, out) == (130, "")
    assert "Traceback" not in err


def test_the_package_runs_as_the_command_does(run_apart: Any, place: Path) -> None:
    command = [sys.executable, "-m", "inferential", "version", "--json"]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert (ran.returncode, ran.stdout, ran.stderr) == (0, run_apart("version", "--json").out, "")
    ran = subprocess.run([*command, "--jsn"], capture_output=True, text=True, timeout=60, check=False)
    assert (ran.returncode, ran.stdout) == (2, "")
    assert "(try: inferential version --help)" in ran.stderr


@pytest.mark.parametrize(
    ("package", "command", "error"),
    [
        ("typer", "version", "the command line needs typer: pip install 'inferential[edge]'"),
        ("typer", "demo", "the demo needs typer: pip install 'inferential[demo]'"),
        ("watchfiles", "serve", "inferential serve needs watchfiles: pip install 'inferential[edge]'"),
        ("mujoco", "demo", "the demo needs mujoco: pip install 'inferential[demo]'"),
        ("matplotlib", "demo", "the demo needs matplotlib: pip install 'inferential[demo]'"),
    ],
)
def test_where_a_package_lacks_the_error_names_it_and_the_extra(
    run_apart: Any, place: Path, package: str, command: str, error: str
) -> None:
    (place / f"{package}.py").write_text(f"raise ModuleNotFoundError('No module named {package}', name='{package}')")
    ran = run_apart(command)
    assert ran.code == 2
    assert ran.err == f"error: {error}\n"


def test_the_demo_has_help_where_its_physics_engine_is_not_installed(run_apart: Any, place: Path) -> None:
    (place / "mujoco.py").write_text("raise ModuleNotFoundError('No module named mujoco', name='mujoco')")
    ran = run_apart("demo", "--help")
    assert (ran.code, ran.err) == (0, "")
    assert "come with the package's extra named demo" in " ".join(ran.out.split())


def test_only_the_command_that_runs_is_imported(place: Path) -> None:
    script = """
import sys
from inferential.cli.main import main
try:
    main(sys.argv[1:])
except SystemExit as ended:
    assert not ended.code
print([name for name in sys.modules if name in sys.argv[1:] or name.startswith("inferential.")], file=sys.stderr)
print([name for name in ("ruamel.yaml", "watchfiles", "mujoco") if name in sys.modules], file=sys.stderr)
"""
    for args in (["version"], ["--help"]):
        ran = subprocess.run(
            [sys.executable, "-c", script, *args], capture_output=True, text=True, timeout=60, check=True
        )
        ours, theirs = ran.stderr.splitlines()[-2:]
        assert "inferential.cli.app" in ours
        assert "inferential.server" not in ours
        assert "inferential.cli.demo" not in ours
        assert "inferential.cli.serve" not in ours
        assert theirs == "[]"


@pytest.mark.parametrize("env", [{"COMP_WORDS": "inferential serve --lo", "COMP_CWORD": "2"}])
def test_a_shell_can_complete_options_of_commands(run_apart: Any, env: dict[str, str]) -> None:
    ran = run_apart(_INFERENTIAL_COMPLETE="complete_bash", **env)
    assert ran.out.split() == ["--log-level", "--log-format"]


def test_a_shell_can_complete_commands(run_apart: Any) -> None:
    ran = run_apart(_INFERENTIAL_COMPLETE="complete_bash", COMP_WORDS="inferential s", COMP_CWORD="1")
    assert ran.out.split() == ["serve", "simulate", "schedulers"]


def _on_a_terminal(args: list[str], **env: str) -> str:
    """What a command writes to a terminal."""
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "inferential.cli.main", *args],
        stdout=theirs,
        stderr=theirs,
        env={**os.environ, "TERM": "xterm-256color", "COLUMNS": "120", **env},
    )
    os.close(theirs)
    written = b""
    while True:
        try:
            piece = os.read(ours, 65536)
        except OSError:  # Linux: the other end is closed
            break
        if not piece:
            break
        written += piece
    os.close(ours)
    process.wait(timeout=60)
    return written.decode()


def test_a_terminal_gets_colour_and_headings(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    written = _on_a_terminal(["schedulers"])
    assert "\x1b[" in written
    assert "strategy" in written


@pytest.mark.parametrize("name", OWN)
def test_on_a_narrow_terminal_help_is_one_line_an_example_and_cuts_nothing(name: str) -> None:
    lines = _on_a_terminal([name, "--help"], COLUMNS="80").replace("\r\n", "\n").splitlines()
    examples = list(importlib.import_module(f"inferential.cli.{name}").EXAMPLES)
    assert [line.strip() for line in lines[-len(examples) :]] == examples
    assert not any("\u2026" in line or "<bool>" in line for line in lines)


def test_on_a_narrow_terminal_check_cuts_no_value(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    (place / "a-fleet-with-a-name.yaml").write_text("transport:\n  bind: tcp://127.0.0.1:5555\n")
    written = _on_a_terminal(["check", "a-fleet-with-a-name.yaml"], COLUMNS="80")
    assert "tcp://127.0.0.1:5555" in written.partition("listens on")[0]
    assert "a-fleet-with-a-name.yaml:2:3" in written
    assert "\u2026" not in written


@pytest.mark.parametrize("env", [{"NO_COLOR": "1"}, {"TERM": "dumb"}])
def test_a_terminal_that_wants_none_gets_plain_lines(place: Path, run: Any, env: dict[str, str]) -> None:
    assert _on_a_terminal(["schedulers"], **env).replace("\r\n", "\n") == run("schedulers").out


def test_rich_output_shows_texts_as_they_are(run: Any, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (place / "f.yaml").write_text("models: {known: {'[red]arm': {max_inflight: 2}}}")
    monkeypatch.setattr(output, "wants_rich", lambda: True)
    monkeypatch.setenv("COLUMNS", "200")
    ran = run("check", "f.yaml")
    assert 'models.known."[red]arm".max_inflight' in ran.out
    assert "\n    Calls of" in ran.out


def test_every_command_in_the_table_is_a_function_of_its_module_or_its_commands() -> None:
    modules = {name: importlib.import_module(f"inferential.cli.{name}") for name in OWN}
    assert [
        name for name, module in modules.items() if not callable(getattr(module, name, vars(module).get("APP")))
    ] == []
    assert set(OWN) == set(app_module.COMMANDS)
