"""Gateways and backends that another package offers by entry points, through the configuration and `inferential serve`.

The package is the example of docs/gateways/own.md, made visible by a `.dist-info` folder beside its modules.
"""

from __future__ import annotations

import re
import socket
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from inferential.config import ConfigError, load_config
from inferential.config.extensions import BACKENDS, GATEWAYS, ExtensionError, extension_names, load_extension

PAGE = Path(__file__).parents[2] / "docs" / "gateways" / "own.md"
ENTRY_POINTS = """
[inferential.gateways]
line = line_gateway:LineGateway
broken = broken_gateway:Gateway
nothing = line_gateway:asyncio

[inferential.backends]
scale = scaling_backend:open_scale
"""


@pytest.fixture
def package(place: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The example's package, installed in the current directory."""
    for name, text in re.findall(r"<!-- file: (\S+\.py) -->\n```python\n(.*?)```", PAGE.read_text(), re.DOTALL):
        (place / name).write_text(text)
        monkeypatch.delitem(sys.modules, name.removesuffix(".py"), raising=False)
    (place / "broken_gateway.py").write_text("import no_such_package\n")
    dist = place / "lines-1.0.dist-info"
    dist.mkdir()
    (dist / "METADATA").write_text("Metadata-Version: 2.1\nName: lines\nVersion: 1.0\n")
    (dist / "entry_points.txt").write_text(ENTRY_POINTS)
    monkeypatch.syspath_prepend(place)
    return place


def problems(**sections: Any) -> list[str]:
    with pytest.raises(ConfigError) as raised:
        load_config(env={}, overrides=sections)
    return [f"{one.path}: {one.message}" for one in raised.value.problems]


def test_an_installed_gateway_is_served_by_its_own_section(package: Path, start: Callable[..., Any]) -> None:
    (package / "fleet.yaml").write_text(
        "transport: {bind: 'tcp://127.0.0.1:0'}\n"
        "models: {known: {arm: {target: 'scale://2', options: {offset: 1.0}}}}\n"
        "gateways: {line: {port: 0, model: arm, separator: ','}}\n"
    )
    process = start("serve", "fleet.yaml", "--log-level", "warning")
    assert process.stdout.readline().startswith("listening on tcp://127.0.0.1:")
    announced = re.fullmatch(r"line gateway on tcp://127\.0\.0\.1:(\d+), model arm\n", process.stdout.readline())
    assert announced, process.stderr.read()
    with socket.create_connection(("127.0.0.1", int(announced[1])), timeout=60) as robot:
        robot.sendall(b"1,2,3\n")
        assert robot.makefile().readline() == "3,5,7\n"


def test_check_says_where_an_installed_gateway_will_listen(package: Path, run: Any) -> None:
    (package / "fleet.yaml").write_text("gateways: {line: {model: arm}}\n")
    listens = run("check", "--json", "fleet.yaml").json["listens"]
    assert {"address": "tcp://127.0.0.1:7000", "what": "line gateway, model arm"} in listens


def test_beside_a_server_that_requires_keys_an_installed_gateway_must_name_its_token(package: Path, run: Any) -> None:
    run("keys", "new", "server")
    security = "security: {mode: required, server_key: keys/server.key_secret, clients: keys/clients}\n"
    (package / "fleet.yaml").write_text(security + "gateways: {line: {model: arm}}\n")
    assert "gateways.line: has neither a token nor TLS, and security.mode is required" in run("check", "fleet.yaml").out
    source = package / "line_gateway.py"
    source.write_text(
        source.read_text().replace(
            "    port: int", '    token_field = "password"\n    password: str = ""\n    port: int'
        )
    )
    sys.modules.pop("line_gateway", None)
    (package / "fleet.yaml").write_text(security + "gateways: {line: {model: arm, password: secret}}\n")
    assert "has neither" not in run("check", "fleet.yaml").out


def test_a_port_that_an_installed_gateway_shares_is_a_problem(package: Path, run: Any) -> None:
    (package / "fleet.yaml").write_text("http: {port: 7000}\ngateways: {line: {model: arm}}\n")
    assert "a port of its own, got 7000" in run("check", "fleet.yaml").out


def test_the_section_of_an_installed_gateway_is_checked_by_what_it_declares(package: Path) -> None:
    assert problems(gateways={"line": {"port": "7000", "seperator": ","}}) == [
        "gateways.line.port: expected a whole number, got the string '7000'",
        "gateways.line.model: expected a string that is not empty, got nothing; it is the model that its robots ask",
        "gateways.line.seperator: unknown key; did you mean gateways.line.separator?",
    ]


def test_the_environment_sets_fields_of_an_installed_gateway(package: Path) -> None:
    config = load_config(env={"INFERENTIAL_GATEWAYS__LINE__MODEL": "arm", "INFERENTIAL_GATEWAYS__LINE__PORT": "7001"})
    section = config.gateways.model_extra["line"]  # type: ignore[index]
    assert (section.model, section.port, section.separator) == ("arm", 7001, " ")


def test_a_gateway_that_no_package_has_is_an_unknown_key_beside_the_names_there_are(package: Path) -> None:
    assert problems(gateways={"zmodem": {}}) == [
        "gateways.zmodem: unknown key; there is: act, broken, gr00t, kserve, kserve_grpc, lerobot, line, nothing, "
        "openpi"
    ]
    assert problems(gateways={"lines": {}}) == ["gateways.lines: unknown key; did you mean gateways.line?"]


def test_a_gateway_that_cannot_be_used_is_a_problem_with_its_package(package: Path) -> None:
    (broken,) = problems(gateways={"broken": {"model": "arm"}})
    assert re.match(r"gateways\.broken: broken_gateway:Gateway of lines, .*No module named 'no_such_package'", broken)
    (nothing,) = problems(gateways={"nothing": {"model": "arm"}})
    assert "expected a class whose attribute Config is a subclass" in nothing


def test_the_options_of_a_model_are_checked_by_its_backend(package: Path) -> None:
    assert problems(models={"known": {"arm": {"target": "scale://2", "options": {"offset": "1", "ofset": 1}}}}) == [
        "models.known.arm.options.offset: input should be a valid number",
        "models.known.arm.options.ofset: unknown key",
    ]


@pytest.mark.parametrize("target", ["openpi://localhost:8000", "policies:echo"])
def test_options_of_a_model_whose_backend_has_none_are_a_problem(package: Path, target: str) -> None:
    assert problems(models={"known": {"arm": {"target": target, "options": {"a": 1}}}}) == [
        "models.known.arm: options are for targets of backends that declare some; leave them out"
    ]


def test_a_scheme_that_no_backend_has_is_a_problem_beside_those_there_are(package: Path) -> None:
    assert problems(models={"known": {"arm": {"target": "onnx://model"}}}) == [
        "models.known.arm.target: no backend has the scheme 'onnx'; expected module:object, ray:application, or one of "
        "kserve://, kserve+https://, openpi://, openpi+wss://, scale://"
    ]


def test_a_section_that_changes_takes_effect_at_the_next_start(package: Path) -> None:
    from inferential.config.changes import diff, in_force

    old = load_config(env={}, overrides={"gateways": {"line": {"model": "arm"}}})
    new = load_config(env={}, overrides={"gateways": {"line": {"model": "leg", "port": 7001}}})
    assert [str(change) for change in diff(old, new)] == [
        "gateways.line.port: 7000 -> 7001 (takes effect at the next start)",
        "gateways.line.model: arm -> leg (takes effect at the next start)",
    ]
    assert in_force(old, new).gateways == old.gateways


def test_names_are_listed_without_importing_anything(package: Path) -> None:
    assert extension_names(GATEWAYS) == [
        "act",
        "broken",
        "gr00t",
        "kserve",
        "kserve_grpc",
        "lerobot",
        "line",
        "nothing",
        "openpi",
    ]
    assert extension_names(BACKENDS) == ["kserve", "kserve+https", "openpi", "openpi+wss", "scale"]
    with pytest.raises(ExtensionError, match="cannot be imported"):
        load_extension(GATEWAYS, "broken")
    with pytest.raises(KeyError):
        load_extension(GATEWAYS, "zmodem")
