"""Commands that ask a server which requires keys, and a page with a certificate of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.cli.conftest import POLICIES, announced

CERTIFICATE = Path(__file__).parent.parent / "server" / "localhost.pem"
TOKEN = "long and random"


@pytest.fixture(scope="module")
def secured(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, str, str]]:
    """Folder, address and page of a server that requires keys, one for all tests of this file."""
    folder = tmp_path_factory.mktemp("secured")
    (folder / "policies.py").write_text(POLICIES)
    env = {name: value for name, value in os.environ.items() if not name.upper().startswith("INFERENTIAL_")}
    command = [sys.executable, "-m", "inferential.cli.main"]

    def keys(*args: str) -> str:
        made = subprocess.run(
            [*command, "keys", "new", *args], cwd=folder, env=env, capture_output=True, text=True, check=False
        )
        assert made.returncode == 0, made.stderr
        return made.stdout

    printed = keys("server")
    keys("client", "arm-01", "arm-02", "arm-03")
    page = f"http: {{port: 0, token: {TOKEN}, tls_certificate: {CERTIFICATE}}}\n"
    (folder / "fleet.yaml").write_text(printed[printed.index("security:") :] + page)
    command += ["serve", "fleet.yaml", "-m", "arm=policies:Doubler", "--bind", "tcp://127.0.0.1:0"]
    with subprocess.Popen(
        command, cwd=folder, env=env, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as process:
        try:
            yield folder, *announced(process)
        finally:
            process.kill()


@pytest.fixture
def secure(secured: tuple[Path, str, str], place: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[str, str]:
    """Its address and page; the keys of three robots are in keys/clients."""
    folder, address, page = secured
    monkeypatch.chdir(folder)
    return address, page


KEYS = ("--server-key", "keys/server.key", "--secret-key")


def test_call_and_bench_connect_with_keys(run: Any, secure: tuple[str, str]) -> None:
    called = run("call", secure[0], "arm", "state=[1, 2]", *KEYS, "keys/clients/arm-01.key_secret", "--json")
    assert called.json["values"] == {"actions": [2.0, 4.0]}
    load = ("--robots", "3", "--rate", "20", "--seconds", "0.5", "--json")
    result = run("bench", secure[0], "arm", "state=[1]", *load, *KEYS, "keys/clients").json
    assert result["answered"] > 0
    assert result["refused"] == {}


def test_keys_may_stand_in_the_environment(run: Any, secure: tuple[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("INFERENTIAL_SERVER_KEY", "keys/server.key")
    monkeypatch.setenv("INFERENTIAL_SECRET_KEY", "keys/clients/arm-02.key_secret")
    assert run("call", secure[0], "arm", "state=[1]", "--json").json["values"] == {"actions": [2.0]}


def test_a_call_without_keys_says_which_are_needed(run: Any, secure: tuple[str, str]) -> None:
    ran = run("call", secure[0], "arm", "state=[1]", "--timeout-ms", "1000")
    assert ran.code == 1
    assert "give server_key= and secret_key=" in ran.err


def test_fewer_keys_than_robots_are_an_error_at_once(run: Any, secure: tuple[str, str]) -> None:
    ran = run("bench", secure[0], "arm", "state=[1]", "--robots", "4", *KEYS, "keys/clients")
    assert ran.code == 2
    assert "--secret-key: 4 robots need a key each, and keys/clients has 3" in ran.err


def test_a_secret_key_alone_is_an_error_that_names_the_other(run: Any, secure: tuple[str, str]) -> None:
    ran = run("call", secure[0], "arm", "state=[1]", "--secret-key", "keys/clients/arm-01.key_secret")
    assert ran.code == 2
    assert "server_key: secret_key is given, so the server's public key is needed too" in ran.err


def test_top_trusts_a_page_by_its_certificate(run: Any, secure: tuple[str, str]) -> None:
    url = secure[1].replace("127.0.0.1", "localhost")
    ran = run("top", url, "--once", "--token", TOKEN)
    assert "has a certificate that is not trusted (self-signed certificate)" in ran.err
    assert "give it with --certificate FILE" in ran.err
    shown = run("top", url, "--once", "--token", TOKEN, "--certificate", str(CERTIFICATE))
    assert "arm" in shown.out
    ran = run("top", url, "--once", "--certificate", "no.pem")
    assert "--certificate: no.pem: No such file" in ran.err
