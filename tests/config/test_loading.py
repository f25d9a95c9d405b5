"""Precedence, the round trip through every format, and the words of every error."""

from __future__ import annotations

import os
import pickle
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, get_args

import pytest
from annotated_types import Ge, Gt, Le, MinLen
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic_core import PydanticUndefined

from inferential.config import ConfigError, InferentialConfig, SchedulingConfig, load_config
from inferential.config.fields import ROOT, Node
from inferential.config.loading import load
from inferential.config.models import RESERVED
from inferential.config.problems import MOST_PROBLEMS

Write = Callable[[str, str], Path]


def problems(*args: Any, **kwargs: Any) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        load_config(*args, **{"env": {}, **kwargs})
    assert isinstance(caught.value, ValueError)
    return str(caught.value).splitlines()


# Precedence


def test_no_settings_give_the_defaults() -> None:
    assert load_config(env={}) == InferentialConfig()


def test_the_file_is_outranked_by_the_environment_and_that_by_overrides(write: Write) -> None:
    path = write("f.yaml", "scheduling: {strategy: file, max_queue_size: 1, max_retries: 1}")
    env = {"INFERENTIAL_SCHEDULING__STRATEGY": "env", "INFERENTIAL_SCHEDULING__MAX_QUEUE_SIZE": "2"}
    config = load_config(path, env=env, overrides={"scheduling": {"strategy": "overrides"}})
    assert config.scheduling.strategy == "overrides"
    assert config.scheduling.max_queue_size == 2
    assert config.scheduling.max_retries == 1


def test_the_environment_is_that_of_the_process_where_none_is_given(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(os.environ, "INFERENTIAL_SCHEDULING__STRATEGY", "round_robin")
    assert load_config().scheduling.strategy == "round_robin"
    assert load_config(env={}).scheduling.strategy == "deadline_aware"


def test_tables_are_merged_and_lists_replaced(write: Write) -> None:
    path = write(
        "f.yaml",
        "models: {known: {arm: {max_inflight: 1, max_batch_size: 4}, hand: {}}}\n"
        "clients: {known: [{id: a, model: m}, {id: b, model: m}]}\n"
        "ray: {resources: {gpu: 1}, address: auto}\n",
    )
    env = {
        "INFERENTIAL_MODELS__KNOWN__ARM__MAX_INFLIGHT": "3",
        "INFERENTIAL_CLIENTS__KNOWN": "[{id: c, model: m}]",
        "INFERENTIAL_RAY__RESOURCES__CPU": "2",
    }
    config = load_config(path, env=env)
    assert config.models.known["arm"].max_inflight == 3
    assert config.models.known["arm"].max_batch_size == 4
    assert set(config.models.known) == {"arm", "hand"}
    assert [entry.id for entry in config.clients.known] == ["c"]
    assert config.ray == {"resources": {"gpu": 1, "cpu": 2}, "address": "auto"}


def test_headings_with_nothing_under_them_tell_nothing(write: Write) -> None:
    path = write("f.yaml", "scheduling:\nmodels:\n  known:\n    arm:\nclients:\n  known:\nray:\n")
    config = load_config(path, env={})
    assert config.model_copy(update={"models": InferentialConfig().models}) == InferentialConfig()
    assert set(config.models.known) == {"arm"}


def test_overrides_may_be_sections() -> None:
    config = load_config(
        env={"INFERENTIAL_SCHEDULING__MAX_RETRIES": "3"}, overrides={"scheduling": SchedulingConfig(strategy="x")}
    )
    assert config.scheduling.strategy == "x"
    assert config.scheduling.max_retries == 3


def test_overrides_are_not_changed_by_loading() -> None:
    overrides = {"models": {"known": {"arm": {"max_inflight": 1}}}}
    load_config(env={"INFERENTIAL_MODELS__KNOWN__HAND__MAX_INFLIGHT": "2"}, overrides=overrides)
    config = load_config(env={}, overrides=overrides)
    config.models.known["arm"].max_inflight = 5
    assert overrides == {"models": {"known": {"arm": {"max_inflight": 1}}}}


def test_the_source_of_every_value_is_known(write: Write) -> None:
    path = write(
        "f.yaml", "scheduling:\n  strategy: a\n  max_retries: 1\nclients:\n  known:\n    - id: a\n      model: m\n"
    )
    env = {"INFERENTIAL_SCHEDULING__MAX_RETRIES": "2"}
    loaded = load(path, env=env, overrides={"metrics": {"enabled": False}}, overrides_name="command line")
    assert loaded.source_of(("scheduling", "strategy")) == f"{path}:2:3"
    assert loaded.source_of(("scheduling", "max_retries")) == "INFERENTIAL_SCHEDULING__MAX_RETRIES"
    assert loaded.source_of(("clients", "known", 0, "model")) == f"{path}:7:7"
    assert loaded.source_of(("metrics", "enabled")) == "command line"
    assert loaded.source_of(("transport", "bind")) == "default"


# The words of errors


@pytest.mark.parametrize(
    ("text", "problem", "line"),
    [
        (
            "scheduling: {max_queue_size: 0}",
            "scheduling.max_queue_size: expected a whole number of at least 1, got 0",
            1,
        ),
        (
            "scheduling: {max_queue_size: '5'}",
            "scheduling.max_queue_size: expected a whole number of at least 1, got the string '5'",
            1,
        ),
        (
            "scheduling: {max_queue_size: 1.5}",
            "scheduling.max_queue_size: expected a whole number of at least 1, got 1.5",
            1,
        ),
        (
            "scheduling: {max_queue_size: true}",
            "scheduling.max_queue_size: expected a whole number of at least 1, got true",
            1,
        ),
        (
            "scheduling: {max_queue_size: }",
            "scheduling.max_queue_size: expected a whole number of at least 1, got null",
            1,
        ),
        ("scheduling: {request_ttl_ms: .inf}", "scheduling.request_ttl_ms: expected a number above 0, got inf", 1),
        ("scheduling: {request_ttl_ms: [1]}", "scheduling.request_ttl_ms: expected a number above 0, got a list", 1),
        (
            "scheduling:\n  overflow_policy: drop",
            "scheduling.overflow_policy: expected drop_oldest or reject_newest, got 'drop'",
            2,
        ),
        (
            "scheduling: {strategy: 7}",
            "scheduling.strategy: expected a string, got 7 (a string is written in quotes)",
            1,
        ),
        ("metrics: {enabled: yes}", "metrics.enabled: expected true or false, got the string 'yes'", 1),
        ("metrics: 5", "metrics: expected a table, got 5", 1),
        ("http: 8080", "http: expected a table or null, got 8080; did you mean http.port?", 1),
        (
            "gateways: {openpi: 8000}",
            "gateways.openpi: expected a table or null, got 8000; did you mean gateways.openpi.port?",
            1,
        ),
        (
            "scheduling: round_robin",
            "scheduling: expected a table, got the string 'round_robin'; did you mean scheduling.strategy?",
            1,
        ),
        (
            "models: {known: {arm: 'policies:Arm'}}",
            "models.known.arm: expected a table, got the string 'policies:Arm'; did you mean models.known.arm.target?",
            1,
        ),
        ("models: {known: [a]}", "models.known: expected a table, got a list", 1),
        (
            "models: {known: {pi0.5: {target: a/pi}}}",
            'models.known."pi0.5".target: expected module:object, onnx:FILE, ray:application, or openpi://HOST:PORT or '
            "null, got 'a/pi'",
            1,
        ),
        ("clients: {known: {a: {}}}", "clients.known: expected a list of tables, got a table", 1),
        (
            "clients:\n  known:\n    - {id: a}",
            "clients.known[0].model: expected a string, got nothing; it is the model that the entry is about",
            3,
        ),
        (
            "clients:\n  known:\n    - {id: a, model: m}\n    - {id: a, model: m}",
            "clients.known: entries [0] and [1] are both for client 'a' and model 'm'",
            2,
        ),
        (
            "transport: {bind: 'robots:5555'}",
            "transport.bind: expected an address like tcp://*:5555 or ipc:///run/robots.sock, got 'robots:5555'; did "
            "you mean 'tcp://robots:5555'?",
            1,
        ),
        ("scheduling: {stratgy: x}", "scheduling.stratgy: unknown key; did you mean scheduling.strategy?", 1),
        (
            "scheduling: {max-queue-size: 1}",
            "scheduling.max-queue-size: unknown key; did you mean scheduling.max_queue_size?",
            1,
        ),
        ("strategy: x", "strategy: unknown key; did you mean scheduling.strategy?", 1),
        ("scheduling.strategy: x", '"scheduling.strategy": unknown key; did you mean scheduling.strategy?', 1),
        (
            "scheduling: {age_weight: 1}",
            "scheduling.age_weight: unknown key; did you mean scheduling.deadline_aware.age_weight?",
            1,
        ),
        ("metrics: {qqq: 1}", "metrics.qqq: unknown key; there is: ring_buffer_size, max_label_sets, enabled", 1),
        (
            "scheduling: {max_concurrent_dispatch: 8}",
            "scheduling.max_concurrent_dispatch: gone: each model has a limit of its own, models.default_max_inflight",
            1,
        ),
    ],
)
def test_a_problem_tells_place_value_expectation_and_source(write: Write, text: str, problem: str, line: int) -> None:
    path = write("f.yaml", text)
    (found,) = problems(path)
    assert re.fullmatch(re.escape(f"{problem} ({path}:{line}:") + r"\d+\)", found)


@pytest.mark.parametrize("at", ["arm", "arm.versions.a"])
@pytest.mark.parametrize(
    ("replicas", "problem"),
    [
        ('"2"', "replicas: expected a whole number of at least 1, or a list of maps, got the string '2'"),
        ("-1", "replicas: expected a whole number of at least 1, or a list of maps, got -1"),
        ("{a: 1}", "replicas: expected a whole number of at least 1, or a list of maps, got a table"),
        ("[{CUDA_VISIBLE_DEVICES: 1}]", "replicas[0].CUDA_VISIBLE_DEVICES: input should be a valid string"),
    ],
)
def test_a_value_that_may_have_several_types_has_one_problem(
    write: Write, at: str, replicas: str, problem: str
) -> None:
    within = f"{{replicas: {replicas}}}" if at == "arm" else f"{{active: a, versions: {{a: {{replicas: {replicas}}}}}}}"
    with pytest.raises(ConfigError) as caught:
        load_config(write("fleet.yaml", f"models: {{known: {{arm: {within}}}}}"))
    assert [f"{one.path}: {one.message}" for one in caught.value.problems] == [f"models.known.{at}.{problem}"]


def test_all_problems_are_reported_each_on_its_line_with_its_source(write: Write) -> None:
    path = write("f.toml", "x = 1\n[scheduling]\nmax_queue_size = 0\n")
    env = {"INFERENTIAL_SCHEDULING__MAX_RETRIES": "-1", "INFERENTIAL_TRANSPORT__BIND__PORT": "1"}
    marks = problems(path, env=env, overrides={"metrics": {"enabled": "no"}})
    assert sorted(marks) == [
        "metrics.enabled: expected true or false, got the string 'no' (overrides)",
        f"scheduling.max_queue_size: expected a whole number of at least 1, got 0 ({path})",
        "scheduling.max_retries: expected a whole number of at least 0, got -1 (INFERENTIAL_SCHEDULING__MAX_RETRIES)",
        "transport.bind: expected an address like tcp://*:5555 or ipc:///run/robots.sock, got a table "
        "(INFERENTIAL_TRANSPORT__BIND__PORT)",
        "x: unknown key; there is: server, transport, scheduling, models, clients, response_tracking, observations, "
        f"metrics, gateways, security, recording, foxglove, alerts, http, otlp, ray ({path})",
    ]


def test_of_very_many_problems_some_are_reported_and_how_many_there_are(write: Write) -> None:
    path = write("f.json", "{" + ", ".join(f'"key {number}": 1' for number in range(2000)) + "}")
    *marks, last = problems(path)
    assert len(marks) == MOST_PROBLEMS
    assert "and others; 2000 values are wrong" in last


def test_an_error_has_its_problems_as_fields_and_can_be_pickled(write: Write) -> None:
    path = write("f.yaml", "metrics: {enabled: 1}")
    with pytest.raises(ConfigError) as caught:
        load_config(path, env={})
    (problem,) = caught.value.problems
    assert (problem.path, problem.source) == ("metrics.enabled", f"{path}:1:11")
    again = pickle.loads(pickle.dumps(caught.value))
    assert str(again) == str(caught.value)
    assert again.problems == caught.value.problems


# Round trip


def _values(node: Node) -> st.SearchStrategy[Any]:
    """Any valid value for a place of the schema, as a file would hold it."""
    if node.path == "alerts":  # it needs a webhook, which is a secret
        return st.none()
    if node.path.endswith(".actions"):
        return st.sampled_from([{}, {"shape": [7], "low": -1.0, "high": [0.5] * 7, "on_bad": "clip"}])
    if node.section is not None:
        # A secret is not written back: it would not be one any more.
        together = _TOGETHER if node.path == "models.known.<id>" else set()
        children = [child for child in node.children() if "SecretStr" not in str(child.annotation)]
        children = [child for child in children if child.key[-1] not in together]
        required = {str(child.key[-1]): _values(child) for child in children if child.default is PydanticUndefined}
        optional = {str(child.key[-1]): _values(child) for child in children if child.default is not PydanticUndefined}
        if node.path == "security":  # a mode needs keys
            required, optional = optional, {}
        plain = st.fixed_dictionaries(required, optional=optional)
        return st.tuples(plain, _versions).map(lambda both: {**both[0], **both[1]}) if together else plain
    if node.path.endswith(".options"):  # none: no backend of this package takes any
        return st.just({})
    if node.path.endswith(".replicas"):
        return st.integers(1, 8) | st.lists(st.dictionaries(st.text("AB", min_size=1), st.text("01")), min_size=1)
    if node.path == "ray" or node.path.endswith((".metadata", ".modality_config", ".args")):
        scalar = (
            st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.floats(allow_nan=False, allow_infinity=False) | _text
        )
        return st.dictionaries(
            _text, st.recursive(scalar, lambda inner: st.lists(inner, max_size=3), max_leaves=5), max_size=3
        )
    if node.is_table or node.is_list:
        inside = node.child(0 if node.is_list else "<id>")
        assert inside is not None
        entries = _values(inside)
        if node.is_list and inside.section is None:
            return st.lists(entries, max_size=3)
        if node.is_list:
            return st.lists(entries, max_size=4, unique_by=lambda entry: (entry["id"], entry["model"]))
        return st.dictionaries(_model_ids if node.path == "models.known" else _text, entries, max_size=4)
    return _leaf(node)


_text = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
_model_ids = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="".join(RESERVED)), max_size=20)
_SPECIAL = {
    "endpoint": ["http://localhost:4318", "https://otel.lab:443/in"],
    "bind": ["tcp://*:5555", "ipc:///tmp/x y.sock"],
    "images": ["keep", "jpeg:70", "none"],
    "target": ["a:b", "päckage.module_1:Outer.make", "onnx:models/päckage 1.onnx"],
    "warm_up": ["last", "seen.npz", "a:b"],
    "dtype": ["", "float32", "string"],
}
_TOGETHER = {"versions", "active", "rollout", "shadow", "fallback"}
_versions = st.sampled_from(
    [
        {},
        {"versions": {"1": {"target": "a:b"}}, "active": "1"},
        {
            "versions": {"1": {"target": "a:b"}, "2": {"target": "a:c", "args": {"gain": 2}}},
            "active": "1",
            "rollout": {"2": {"share": 0.25, "clients": ["arm-01"]}},
        },
        {"versions": {"1": {"target": "a:b"}, "2": {"target": "a:c"}}, "active": "2", "shadow": "1"},
    ]
)


def _leaf(node: Node) -> st.SearchStrategy[Any]:
    special = _SPECIAL.get(str(node.key[-1]))
    if special is not None:
        return st.sampled_from(special)
    marks = {type(one): one for one in (*node.metadata, *_inner(node))}
    if node.kind is bool:
        return st.booleans()
    if node.kind is str:
        return _text.filter(bool) if MinLen in marks else _text
    upper = marks[Le].le if Le in marks else None
    if node.kind is int:
        return st.integers(marks[Ge].ge, 2**62 if upper is None else upper)
    if node.kind is float:
        lower = marks[Gt].gt if Gt in marks else marks[Ge].ge
        return st.floats(lower, upper, exclude_min=Gt in marks, allow_nan=False, allow_infinity=False)
    return st.sampled_from(get_args(node.kind))


def _inner(node: Node) -> tuple[Any, ...]:
    from inferential.config.fields import unwrapped

    return unwrapped(node.annotation)[1]


@pytest.mark.parametrize("suffix", [".yaml", ".json", ".toml"])
@given(values=_values(ROOT))
@settings(
    max_examples=60,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.data_too_large],
)
def test_a_configuration_survives_being_written_and_read(
    tmp_path: Path, writers: dict[str, Callable[[Mapping[str, Any]], str]], suffix: str, values: dict[str, Any]
) -> None:
    config = InferentialConfig.model_validate(values)
    path = tmp_path / f"fleet{suffix}"
    marks = config.model_dump(exclude_none=suffix == ".toml", exclude={"gateways": {"openpi": {"api_keys"}}})
    path.write_text(writers[suffix](marks), encoding="utf-8")
    assert load_config(path, env={}) == config


@given(values=_values(ROOT))
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
def test_a_configuration_survives_as_overrides(values: dict[str, Any]) -> None:
    assert load_config(env={}, overrides=values) == InferentialConfig.model_validate(values)
