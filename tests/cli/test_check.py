"""`inferential check`."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from tests.policies import onnx_files

from inferential.cli import preflight
from inferential.config.schema import SchedulingConfig
from inferential.scheduler.base import Scheduler, factories

FLEET = """\
scheduling:
  strategy: round_robin
  max_queue_size: 1000
models:
  known:
    arm:
      target: policies:Doubler
clients:
  known:
    - {id: robot-1, model: arm, latency_budget_ms: 20}
"""


def without_columns(text: str) -> str:
    """Cuts `f.yaml:2:7` to `f.yaml:2`; columns are tested in tests/config/test_files.py."""
    return re.sub(r"(\.(?:yaml|toml|json):\d+):\d+", r"\1", text)


def test_every_value_other_than_the_default_is_explained(run: Any, place: Path, monkeypatch: Any) -> None:
    (place / "fleet.yaml").write_text(FLEET)
    monkeypatch.setenv("INFERENTIAL_METRICS__ENABLED", "no")
    ran = run("check", "fleet.yaml")
    assert ran.code == 0
    first, *lines = without_columns(ran.out).splitlines()
    assert first == "fleet.yaml: valid, 6 values other than the defaults"
    cells = [[cell.strip() for cell in line.split("  ") if cell.strip()] for line in lines]
    assert cells[0] == ["field", "value", "from", "meaning"]
    assert cells[7:9] == [["listens on", "for"], ["tcp://*:5555", "robots (ZeroMQ)"]]
    cells = cells[1:7]
    assert [row[:3] for row in cells] == [
        ["scheduling.strategy", "round_robin", "fleet.yaml:2"],
        ["models.known.arm.target", "policies:Doubler", "fleet.yaml:7"],
        ["clients.known[0].id", "robot-1", "fleet.yaml:10"],
        ["clients.known[0].model", "arm", "fleet.yaml:10"],
        ["clients.known[0].latency_budget_ms", "20.0 ms", "fleet.yaml:10"],
        ["metrics.enabled", "false", "INFERENTIAL_METRICS__ENABLED"],
    ]
    assert cells[5][3] == "Off: nothing is kept and no callback is called."


def test_json_has_the_same(run: Any, place: Path) -> None:
    (place / "fleet.json").write_text('{"transport": {\n"bind": "tcp://*:1"}}')
    ran = run("check", "fleet.json", "--json")
    assert ran.code == 0
    (value,) = ran.json["values"]
    assert {name: value[name] for name in ("path", "value", "default", "source", "live", "unit")} == {
        "path": "transport.bind",
        "value": "tcp://*:1",
        "default": "tcp://*:5555",
        "source": "fleet.json:2:1",
        "live": False,
        "unit": "",
    }
    assert ran.json["valid"] is True
    assert ran.json["problems"] == []


def test_check_says_what_will_listen_where(run: Any, place: Path) -> None:
    (place / "fleet.yaml").write_text(
        "gateways: {openpi: {model: arm}, gr00t: {model: arm, host: '*', port: 0}, lerobot: {model: arm, port: 8081},\n"
        " act: {model: arm, host: '::1'}}\n"
        "http: {host: '::1', token: s3cret}\notlp: {}\ntransport: {bind: 'ipc:///tmp/robots'}\n"
    )
    assert [tuple(one.values()) for one in run("check", "fleet.yaml", "--json").json["listens"]] == [
        ("ipc:///tmp/robots", "robots (ZeroMQ)"),
        ("ws://127.0.0.1:8000", "openpi gateway, model arm"),
        ("tcp://*:a free port", "GR00T gateway, model arm"),
        ("grpc://127.0.0.1:8081", "LeRobot gateway, model arm"),
        ("http://[::1]:8202", "/act gateway, model arm"),
        ("http://[::1]:8080", "live page, /metrics, /healthz, /readyz (token required)"),
        ("http://localhost:4318", "OpenTelemetry collector, connected to"),
    ]
    assert "s3cret" not in run("check", "fleet.yaml").out


def test_without_a_file_the_environment_is_checked(run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    assert run("check").out.startswith("environment: valid, 0 values other than the defaults\n")
    monkeypatch.setenv("INFERENTIAL_SCHEDULNG", "{}")
    ran = run("check")
    assert ran.code == 1
    assert ran.out == "schedulng: unknown key; did you mean INFERENTIAL_SCHEDULING? (INFERENTIAL_SCHEDULNG)\n"


def test_problems_are_reported_a_line_each_with_exit_code_1(run: Any, place: Path) -> None:
    (place / "f.yaml").write_text("scheduling:\n  stratgy: x\n  max_retries: -1\n")
    ran = run("check", "f.yaml")
    assert ran.code == 1
    assert sorted(without_columns(ran.out).splitlines()) == [
        "scheduling.max_retries: expected a whole number of at least 0, got -1 (f.yaml:3)",
        "scheduling.stratgy: unknown key; did you mean scheduling.strategy? (f.yaml:2)",
    ]
    result = run("check", "--json", "f.yaml")
    assert result.code == 1
    assert result.json["valid"] is False
    assert [problem["source"] for problem in result.json["problems"]] == ["f.yaml:3:3", "f.yaml:2:3"]
    assert result.json["values"] == []


def test_limits_and_fallbacks_are_named_by_their_place_in_the_file(run: Any, place: Path) -> None:
    arm = "arm:\n      target: 'policies:Arm'\n      actions: {low: 2, high: 1}"
    (place / "f.yaml").write_text(f"models:\n  known:\n    {arm}\n")
    (place / "g.yaml").write_text("models:\n  known:\n    arm:\n      target: 'policies:Arm'\n      fallback: leg\n")
    said = without_columns(run("check", "f.yaml").out + run("check", "g.yaml").out)
    assert said.splitlines() == [
        "models.known.arm.actions: low: expected at most high (1.0), got 2.0 (f.yaml:5)",
        "models.known.arm.fallback: expected the id of another model that has a target, got 'leg' (g.yaml:5)",
    ]


def test_it_says_that_models_were_not_imported_where_they_were_not(run: Any, place: Path) -> None:
    (place / "f.yaml").write_text("models: {known: {arm: {target: 'policies:echo'}}}")
    hint = "models are not imported; whether they can be, --import finds out"
    assert hint in run("check", "f.yaml").out
    assert hint not in run("check", "--import", "f.yaml").out
    assert hint not in run("check").out


def test_what_is_wrong_with_a_value_is_reported_beside_what_the_schema_finds(run: Any, place: Path) -> None:
    (place / "f.yaml").write_text(
        "scheduling: {strategy: slo_awre, max_retries: -1, slo_aware: {latency_quantil: 1}}\n"
        "models: {profiles: none.json, known: {arm: {target: 'policies:Arm', max_batch: 3}, leg: {run: thead}}}\n"
        "gateways: {openpi: {port: 1}}\nhttp: 8080\nclients: {known: [{id: a}], classes: {arm: 3}, acept_unknown: no}\n"
    )
    ran = run("check", "f.yaml")
    assert ran.code == 1
    assert {line.partition(": ")[0]: line.partition("; ")[2] for line in without_columns(ran.out).splitlines()} == {
        "scheduling.max_retries": "",
        "scheduling.slo_aware.latency_quantil": "did you mean scheduling.slo_aware.latency_quantile? (f.yaml:1)",
        "models.known.arm.max_batch": "did you mean models.known.arm.max_batch_size? (f.yaml:2)",
        "models.known.leg.run": "",
        "clients.known[0].model": "it is the model that the entry is about (f.yaml:5)",
        "clients.classes.arm": "",
        "gateways.openpi.model": "it is the model that its robots ask (f.yaml:3)",
        "http": "did you mean http.port? (f.yaml:4)",
        "clients.acept_unknown": "did you mean clients.accept_unknown? (f.yaml:5)",
        "models.profiles": "",
        "scheduling.strategy": "did you mean slo_aware? (f.yaml:1)",
    }


def test_models_that_are_named_and_not_served_are_warned_of(run: Any, place: Path) -> None:
    (place / "f.yaml").write_text(
        "models: {known: {arm: {target: 'policies:Doubler'}, amr: {max_batch_size: 3}}}\n"
        "transport: {bind: 'tcp://127.0.0.1:5555'}\ngateways: {openpi: {model: amr}, kserve: {}}\n"
        "clients: {known: [{id: a, model: arm, models: [arm, arn]}, {id: b, model: other}]}\n"
    )
    ran = run("check", "f.yaml", "--json")
    assert (ran.code, ran.json["warnings"]) == (
        0,
        [
            "models.known.amr has settings but no target: it is not served",
            "gateways.openpi.model: 'amr' is not served: its robots will be refused; did you mean arm?",
            "clients.known[0].models: 'arn' is not served; did you mean arm?",
            "clients.known[1].model: 'other' is not served; there is: arm",
        ],
    )
    (place / "f.yaml").write_text("clients: {known: [{id: b, model: other}]}\ntransport: {bind: 'tcp://127.0.0.1:1'}\n")
    assert run("check", "f.yaml", "--json").json["warnings"] == []  # `serve --model other=...` may follow


@pytest.mark.parametrize(
    ("name", "text", "problem"),
    [
        ("none.yaml", None, "none.yaml: cannot be read: No such file or directory\n"),
        ("f.toml", "x = \n", "f.toml:1: not valid TOML: Invalid value\n"),
    ],
)
def test_a_file_that_cannot_be_read_is_a_problem(run: Any, place: Path, name: str, text: Any, problem: str) -> None:
    if text is not None:
        (place / name).write_text(text)
    ran = run("check", name)
    assert (ran.code, without_columns(ran.out)) == (1, problem)


def test_an_unknown_strategy_is_a_problem(run: Any, place: Path) -> None:
    (place / "f.yaml").write_text("scheduling: {strategy: round_robbin}\n")
    ran = run("check", "f.yaml")
    assert ran.code == 1
    assert without_columns(ran.out) == (
        "scheduling.strategy: expected one of batch_optimized, deadline_aware, model_deadline, priority_tiered, "
        "round_robin, slo_aware, got 'round_robbin'; did you mean round_robin? (f.yaml:1)\n"
    )


def test_a_files_own_words_are_shown_without_what_a_terminal_acts_on(run: Any, place: Path) -> None:
    (place / "f.yaml").write_text('models: {known: {"a\\e[2Jb": {device: "x\\x9by"}}}')
    ran = run("check", "f.yaml")
    assert r'models.known."a\x1b[2Jb".device  x\x9by' in ran.out
    (place / "f.yaml").write_text('"a\\e[2Jb": 1')
    assert run("check", "f.yaml").out.startswith(r'"a\x1b[2Jb": unknown key')
    assert run("serve", "f.yaml").err.startswith(r'error: "a\x1b[2Jb": unknown key')


def test_a_fleet_to_simulate_is_recognised_as_one(run: Any, place: Path) -> None:
    (place / "f.yaml").write_text("robots: {arm: {model: m, rate_hz: 5, budget_ms: 5}}\n")
    assert without_columns(run("check", "f.yaml").out) == (
        "robots: unknown key; a file with robots is a fleet for `inferential simulate`, no server's configuration "
        "(f.yaml:1)\n"
    )


ARM = "models: {known: {arm: {target: 'policies:Doubler'}}}\n"


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (
            "models: {known: {arm: {target: 'policies:echo'}, leg: {target: 'ray:leg'}}}",
            "models.known.arm.target: a server has its models either on Ray Serve or in its own process, and leg are "
            "on Ray Serve: start another server for arm (f.yaml:1)",
        ),
        (
            "models: {profiles: none.json, known: {arm: {target: 'policies:echo'}}}",
            "models.profiles: none.json: cannot be read: No such file or directory (f.yaml:1)",
        ),
        (
            "models: {profiles: bad.json, known: {arm: {target: 'policies:echo'}}}",
            "models.profiles: arm[0]: batch_size: expected a whole number above 0, got 0 (bad.json) (f.yaml:1)",
        ),
        (
            ARM + "transport: {bind: 'tcp://*:99999'}",
            "transport.bind: expected a port of at most 65535, got 99999 (f.yaml:2)",
        ),
        (
            ARM + "transport: {bind: ['ipc:///tmp/a', 'tcp://*:5555', 'tcp://[::1]:5555']}",
            "transport.bind[2]: expected a port of its own, got 5555, that of transport.bind[1] (f.yaml:2)",
        ),
        (
            ARM + "transport: {bind: ['ipc:///tmp/a', {address: 'tcp://*:99999'}]}",
            "transport.bind[1]: expected a port of at most 65535, got 99999 (f.yaml:2)",
        ),
        (
            ARM + "transport: {bind: [{address: 'tcp://*:1', security: maybe}]}",
            "transport.bind: entry 0: security: expected off, optional or required, got 'maybe' (f.yaml:2)",
        ),
        (
            ARM + f"transport: {{bind: 'ipc://{'x' * 120}'}}",
            "transport.bind: expected a path of at most 107 bytes, got 120 (f.yaml:2)",
        ),
        (ARM + "http: {host: '*'}", "http.host: expected 0.0.0.0 for every interface, got '*' (f.yaml:2)"),
        (
            ARM + "gateways: {openpi: {model: arm, host: '*'}}",
            "gateways.openpi.host: expected 0.0.0.0 for every interface, got '*' (f.yaml:2)",
        ),
        (
            ARM + "http: {port: 5555}",
            "http.port: expected a port of its own, got 5555, that of transport.bind (f.yaml:2)",
        ),
        (
            ARM + "http: {port: 8000}\ngateways: {openpi: {model: arm, host: localhost}}",
            "http.port: expected a port of its own, got 8000, that of gateways.openpi.port (f.yaml:2)",
        ),
    ],
)
def test_what_serve_would_refuse_is_a_problem_of_check_too(run: Any, place: Path, text: str, problem: str) -> None:
    (place / "f.yaml").write_text(text)
    (place / "bad.json").write_text('{"arm": [{"batch_size": 0, "median_ms": 1}]}')
    assert without_columns(run("check", "f.yaml").out) == f"{problem}\n"
    ran = run("serve", "f.yaml")
    assert (ran.code, ran.out, without_columns(ran.err)) == (2, "", f"error: {problem}\n")


@pytest.mark.parametrize(
    "text",
    [
        "transport: {bind: 'tcp://*:0'}\nhttp: {port: 0}\ngateways: {openpi: {model: arm, port: 0}}",
        "transport: {bind: 'tcp://10.0.0.1:8080'}\nhttp: {port: 8080}",
        "transport: {bind: 'ipc:///tmp/8080'}\nhttp: {port: 8080}",
    ],
)
def test_ports_that_do_not_meet_are_no_problem(run: Any, place: Path, text: str) -> None:
    (place / "f.yaml").write_text(ARM + text)
    assert run("check", "f.yaml").code == 0


def test_a_strategy_that_cannot_be_made_is_a_problem(run: Any, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(config: SchedulingConfig) -> Scheduler:
        raise OSError("no solver")

    monkeypatch.setitem(factories, "mine", broken)
    (place / "f.yaml").write_text("scheduling: {strategy: mine}\n" + ARM)
    problem = "scheduling.strategy: mine cannot be made: OSError: no solver (f.yaml:1)\n"
    assert without_columns(run("check", "f.yaml").out) == problem
    assert without_columns(run("serve", "f.yaml").err) == f"error: {problem}"


def test_import_leaves_alone_what_is_on_ray_serve(run: Any, place: Path) -> None:
    pytest.importorskip("ray")
    (place / "f.yaml").write_text("models: {known: {arm: {target: 'ray:arm-v2'}}}")
    assert run("check", "--import", "f.yaml").code == 0


def test_import_finds_models_that_the_server_would_not_take(run: Any, place: Path) -> None:
    (place / "f.yaml").write_text("models: {known: {arm: {target: 'policies:TakesNone'}}}")
    assert without_columns(run("check", "--import", "f.yaml").out) == (
        "models.known.arm.target: model 'arm', target 'policies:TakesNone': max_batch_size: expected a whole number "
        "above 0, got 0 (f.yaml:1)\n"
    )


def test_import_tells_which_packages_lack(run: Any, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (place / "f.yaml").write_text(
        "models: {known: {arm: {target: 'ray:arm'}}}\notlp: {traces: false}\ngateways: {lerobot: {model: arm}}"
    )
    monkeypatch.setattr(preflight, "is_installed", lambda package: False)
    assert without_columns(run("check", "--import", "f.yaml").out).splitlines() == [
        "models.known.arm.target: needs ray: pip install 'inferential[server]' (f.yaml:1)",
        "gateways.lerobot: needs grpc: pip install 'inferential[lerobot]' (f.yaml:3)",
        "otlp: needs opentelemetry.sdk: pip install 'inferential[otel]' (f.yaml:2)",
    ]
    assert run("check", "f.yaml").code == 0


def test_import_finds_what_is_wrong_with_the_models(run: Any, place: Path) -> None:
    text = "models:\n  known:\n    arm: {target: 'policies:Doubler'}\n    hand:\n      target: policies:Dubler\n"
    (place / "f.yaml").write_text(text)
    assert run("check", "f.yaml").code == 0
    ran = run("check", "--import", "f.yaml")
    assert ran.code == 1
    assert without_columns(ran.out) == (
        "models.known.hand.target: model 'hand', target 'policies:Dubler': policies has no 'Dubler'; "
        "did you mean 'Doubler'? (f.yaml:5)\n"
    )


def test_a_strategy_that_a_model_registers_is_known_after_import(run_apart: Any, place: Path) -> None:
    (place / "mine.py").write_text(
        "from inferential.scheduler import RoundRobinScheduler, register_scheduler\n"
        "register_scheduler('mine')(RoundRobinScheduler)\n"
        "def model(observation): return observation\n"
    )
    model = "models: {known: {m: {target: 'mine:model', run: thread}}}"
    (place / "f.yaml").write_text("scheduling: {strategy: mine}\n" + model)
    assert run_apart("check", "f.yaml").code == 1
    assert run_apart("check", "f.yaml", "--import").code == 0


def test_addresses_of_both_kinds_and_their_keys_are_listed(run: Any, place: Path) -> None:
    bind = "['tcp://0.0.0.0:5555', 'tcp://[::]:5555', {address: 'ipc:///tmp/a', security: off}]"
    (place / "f.yaml").write_text(ARM + f"transport: {{bind: {bind}}}")
    found = run("check", "--json", "f.yaml").json
    assert found["valid"]
    assert [one["address"] for one in found["listens"]] == ["tcp://0.0.0.0:5555", "tcp://[::]:5555", "ipc:///tmp/a"]
    assert "tcp://0.0.0.0:5555, tcp://[::]:5555 listens beyond this machine" in found["warnings"][0]


def test_what_a_policy_from_a_file_takes_and_gives_is_shown(run: Any, place: Path) -> None:
    onnx_files.doubling(place / "arm.onnx")
    (place / "fleet.yaml").write_text(
        "models: {known: {arm: {target: 'onnx:arm.onnx'}, own: {target: 'policies:echo'}}}"
    )
    ran = run("check", "--import", "fleet.yaml", "--json")
    assert ran.json["models"] == {
        "arm": {
            "max_batch_size": 8,
            "inputs": [{"name": "state", "dtype": "float32", "shape": [3]}],
            "outputs": [{"name": "actions", "dtype": "float32", "shape": [3]}],
        }
    }
    shown = run("check", "--import", "fleet.yaml").out
    assert "imported and made: arm, own\n" in shown
    assert re.search(r"^model +batch +takes +gives$", shown, re.MULTILINE)
    assert re.search(r"^arm +8 +state: float32 \[3\] +actions: float32 \[3\]$", shown, re.MULTILINE)


@pytest.mark.parametrize(
    ("declared", "text"),
    [
        ("{stat: {}}", "inputs: the model takes no 'stat'; it takes state"),
        ("{state: {shape: [4]}}", "inputs: 'state': declared as any dtype [4], the model takes float32 [3]"),
        ("{state: {shape: [-1, 3]}}", "inputs: 'state': declared as any dtype [*, 3], the model takes float32 [3]"),
    ],
)
def test_inputs_that_are_declared_and_are_not_those_of_the_file_are_named(
    run: Any, place: Path, declared: str, text: str
) -> None:
    onnx_files.doubling(place / "arm.onnx")
    model = f"{{target: 'onnx:arm.onnx', inputs: {declared}}}"
    (place / "fleet.yaml").write_text(f"models: {{known: {{arm: {model}}}}}")
    ran = run("check", "--import", "fleet.yaml")
    assert ran.code == 1
    assert text in ran.out


def test_inputs_that_are_declared_as_the_file_has_them_are_shown(run: Any, place: Path) -> None:
    onnx_files.doubling(place / "arm.onnx", size="n")
    model = "{target: 'onnx:arm.onnx', inputs: {state: {dtype: float64, shape: [7]}}}"
    (place / "fleet.yaml").write_text(f"models: {{known: {{arm: {model}}}}}")
    assert "state: float64 [7]" in run("check", "--import", "fleet.yaml").out


def test_a_dtype_that_there_is_not_is_named_once(run: Any, place: Path) -> None:
    (place / "fleet.yaml").write_text("models: {known: {arm: {inputs: {state: {dtype: flot}}}}}")
    assert "models.known.arm.inputs.state: expected a dtype as float32, got 'flot'" in run("check", "fleet.yaml").out
