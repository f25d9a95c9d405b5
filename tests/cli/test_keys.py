"""`inferential keys`."""

from __future__ import annotations

import json
import stat
from pathlib import Path
from typing import Any

import pytest
import zmq.auth

from inferential.cli.app import run
from inferential.cli.errors import CliError
from inferential.config import load_config
from inferential.zmtp.certificates import read_certificate


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path / "keys"


def test_the_lines_that_new_server_prints_are_a_configuration_that_can_be_served(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["keys", "new", "server"]) == 0
    printed = capsys.readouterr().out
    Path("fleet.yaml").write_text(printed[printed.index("security:") :])
    config = load_config("fleet.yaml")
    assert config.security.mode == "required"
    with pytest.raises(CliError, match="not overwritten"):
        run(["keys", "new", "server"])


def test_new_files_are_read_by_zmq_auth_and_secret_ones_by_their_owner_alone(folder: Path) -> None:
    run(["keys", "new", "client", "arm-01"])
    secret = folder / "clients" / "arm-01.key_secret"
    assert stat.S_IMODE(secret.stat().st_mode) == 0o600
    assert all(zmq.auth.load_certificate(str(secret)))
    assert read_certificate(folder / "clients" / "arm-01.key").metadata == {"name": "arm-01"}


def test_a_revoked_key_is_listed_as_such(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("arm-01", "arm-02"):
        run(["keys", "new", "client", name])
    run(["keys", "revoke", "arm-01"])
    capsys.readouterr()
    run(["keys", "list", "--json"])
    listed = json.loads(capsys.readouterr().out)
    assert [one["name"] for one in listed["accepted"]] == ["arm-02"]
    assert listed["revoked"] == ["arm-01"]
    run(["keys", "list"])
    assert "arm-01  revoked" in capsys.readouterr().out


def test_show_never_shows_a_secret_key(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run(["keys", "new", "client", "arm-01"])
    capsys.readouterr()
    path = folder / "clients" / "arm-01.key_secret"
    public, secret = zmq.auth.load_certificate(str(path))
    assert secret is not None
    for more in ([], ["--json"]):
        run(["keys", "show", str(path), *more])
        shown = capsys.readouterr().out
        assert public.decode() in shown
        assert secret.decode() not in shown


def test_show_finds_the_key_of_a_robot_by_its_id(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run(["keys", "new", "client", "arm-01"])
    capsys.readouterr()
    run(["keys", "show", "arm-01"])
    assert capsys.readouterr().out.startswith("keys/clients/arm-01.key: a public key file; ")


@pytest.mark.parametrize("name", ["", "../arm", ".arm", "a" * 256, "a\nb"])
def test_a_name_that_can_be_no_client_id_is_refused(name: str) -> None:
    with pytest.raises(CliError, match="printable text"):
        run(["keys", "new", "client", name])


def test_revoking_what_is_not_there_names_what_is(folder: Path) -> None:
    run(["keys", "new", "client", "arm-01"])
    with pytest.raises(CliError, match="no key of 'arm-02' in keys/clients; there is: arm-01"):
        run(["keys", "revoke", "arm-02"])


def test_json_names_each_file_that_was_made_or_moved(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def printed(*args: str) -> Any:
        assert run(["keys", *args, "--json"]) == 0
        return json.loads(capsys.readouterr().out)

    made = printed("new", "server")
    assert [Path(made[name]).exists() for name in ("public", "secret", "clients")] == [True] * 3
    (client,) = printed("new", "client", "arm-01")
    assert client == {
        "name": "arm-01",
        "public": "keys/clients/arm-01.key",
        "secret": "keys/clients/arm-01.key_secret",
    }
    assert printed("revoke", "arm-01") == {"name": "arm-01", "revoked": "keys/clients/arm-01.key.revoked"}


@pytest.mark.parametrize(
    ("args", "problem"),
    [
        (["list"], "`inferential keys new server` makes it"),
        (["show", "none.key"], "none.key"),
        (["show", "fleet.yaml"], "fleet.yaml"),
        (["new", "client", "arm-01"], "revoke it, or move it away, first"),
        (["new", "client", "arm-02", "--dir", "fleet.yaml/keys"], "cannot make the folder fleet.yaml/keys"),
        (["revoke", "arm-01", "--dir", "fleet.yaml"], "'fleet.yaml' is a file"),
    ],
)
def test_what_keys_cannot_do_is_said_with_the_file(folder: Path, args: list[str], problem: str) -> None:
    Path("fleet.yaml").write_text("metrics: {}")
    if "arm-01" in args and "new" in args:
        run(["keys", *args])
    with pytest.raises(CliError) as raised:
        run(["keys", *args])
    assert problem in str(raised.value)


@pytest.mark.parametrize("bad", ["arm/03", "arm-01"])
def test_keys_of_several_robots_are_made_for_all_or_none(folder: Path, bad: str) -> None:
    run(["keys", "new", "client", "arm-01"])
    with pytest.raises(CliError, match=bad):
        run(["keys", "new", "client", "arm-02", bad])
    assert [one.name for one in Path("keys/clients").iterdir() if "02" in one.name] == []


def test_a_secret_key_that_is_left_over_keeps_keys_of_that_name_from_being_made(folder: Path) -> None:
    run(["keys", "new", "client", "arm-01"])
    run(["keys", "revoke", "arm-01"])
    with pytest.raises(CliError, match=r"arm-01\.key_secret exists; .*move it away"):
        run(["keys", "new", "client", "arm-02", "arm-01"])
    assert [one.name for one in Path("keys/clients").iterdir() if "02" in one.name] == []


def test_two_names_for_one_key_are_a_problem(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run(["keys", "new", "client", "arm-01"])
    (folder / "clients" / "arm-02.key").write_text((folder / "clients" / "arm-01.key").read_text())
    assert run(["keys", "list"]) == 1
    assert "it has the key of arm-01" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("section", "path"),
    [
        ("http: {port: 8080}", "http"),
        ("gateways: {openpi: {model: m}}", "gateways.openpi"),
        ("gateways: {gr00t: {model: m}}", "gateways.gr00t"),
        ("gateways: {act: {model: m}}", "gateways.act"),
        ("gateways: {kserve: {}}", "gateways.kserve"),
        ("foxglove: {host: 0.0.0.0}", "foxglove"),
    ],
)
def test_a_page_or_gateway_without_token_keeps_a_server_that_requires_keys_from_starting(
    section: str, path: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run(["keys", "new", "server"])
    printed = capsys.readouterr().out
    Path("fleet.yaml").write_text(printed[printed.index("security:") :] + section)
    assert run(["check", "fleet.yaml"]) == 1
    assert f"{path}: has neither a token nor TLS" in capsys.readouterr().out
    with pytest.raises(CliError, match="has neither a token nor TLS"):
        run(["serve", "fleet.yaml", "--model", "m=json:dumps"])


def test_check_warns_of_an_address_that_other_machines_can_reach(capsys: pytest.CaptureFixture[str]) -> None:
    run(["check"])
    assert "any machine that reaches it can read every observation" in capsys.readouterr().out
    Path("local.yaml").write_text("transport: {bind: 'tcp://127.0.0.1:5555'}")
    run(["check", "local.yaml"])
    assert "any machine" not in capsys.readouterr().out


def test_missing_keys_are_found_before_a_server_starts(capsys: pytest.CaptureFixture[str]) -> None:
    Path("fleet.yaml").write_text("security: {mode: required, server_key: no.key_secret, clients: nowhere}")
    assert run(["check", "fleet.yaml"]) == 1
    printed = capsys.readouterr().out
    assert "security.server_key: key file no.key_secret: No such file" in printed
    assert "security.clients: folder nowhere: No such file" in printed


def test_a_mode_without_keys_names_what_is_missing(capsys: pytest.CaptureFixture[str]) -> None:
    Path("fleet.yaml").write_text("security: {mode: required}")
    assert run(["check", "fleet.yaml"]) == 1
    assert "needs server_key and clients" in capsys.readouterr().out
