"""Commands that ask a server which requires keys, and a page with a certificate of its own."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Start = Callable[..., "subprocess.Popen[str]"]
CERTIFICATE = Path(__file__).parent.parent / "server" / "localhost.pem"
TOKEN = "long and random"


@pytest.fixture
def secure(run: Any, start: Start, place: Path) -> tuple[str, str]:
    """Address and page of a server that requires keys; those of three robots are in keys/clients."""
    printed = run("keys", "new", "server").out
    run("keys", "new", "client", "arm-01", "arm-02", "arm-03")
    page = f"http: {{port: 0, token: {TOKEN}, tls_certificate: {CERTIFICATE}}}\n"
    (place / "fleet.yaml").write_text(printed[printed.index("security:") :] + page)
    process = start("serve", "fleet.yaml", "-m", "arm=policies:Doubler", "--bind", "tcp://127.0.0.1:0")
    assert process.stdout is not None
    address = process.stdout.readline().split()[2].rstrip(",")
    return address, process.stdout.readline().split()[-1]


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
    assert "has a certificate that is not trusted" in ran.err
    assert "give it with --certificate FILE" in ran.err
    shown = run("top", url, "--once", "--token", TOKEN, "--certificate", str(CERTIFICATE))
    assert "arm" in shown.out
    ran = run("top", url, "--once", "--certificate", "no.pem")
    assert "--certificate: no.pem: No such file" in ran.err
