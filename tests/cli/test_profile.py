"""`inferential profile`: figures that a server can begin with."""

from __future__ import annotations

import json
import resource
from pathlib import Path
from typing import Any

import pytest

from inferential.config.profiles import load_profiles, save_profiles
from inferential.scheduler.time.profile import Profiles


def test_a_models_latency_is_reported_by_batch_size(run: Any) -> None:
    ran = run("profile", "policies:Batcher", "--input", "state=float32:7", "--calls", "5", "--json")
    assert ran.code == 0, ran.err
    (sizes,) = ran.json.values()
    assert [size["batch_size"] for size in sizes] == [1, 2, 4]
    assert all(0 < size["median_ms"] <= size["high_ms"] for size in sizes)


def test_what_a_model_does_at_one_size_leaves_the_figures_of_the_others(run: Any) -> None:
    ran = run("profile", "policies:Quickens", "--input", "state=float32:7", "--calls", "5", "--json")
    (sizes,) = ran.json.values()
    assert [size["batch_size"] for size in sizes] == [1, 2]


def test_a_model_of_the_configuration_is_saved_under_its_id_for_a_server(run: Any, place: Path) -> None:
    (place / "f.yaml").write_text("models: {known: {arm: {target: 'policies:Batcher'}}}\n")
    ran = run(
        *("profile", "arm", "--config", "f.yaml", "-i", "state=float32:7", "--batch-sizes", "1,3"),
        *("--calls", "4", "--out", "profiles.json"),
    )
    assert (ran.code, ran.out.splitlines()[-1]) == (0, "saved profiles.json")
    profiles = Profiles()
    load_profiles(profiles, "profiles.json")
    assert [size.batch_size for size in profiles.of("arm").sizes()] == [1, 3]
    assert json.loads((place / "profiles.json").read_text()).keys() == {"arm"}


def test_a_full_disk_leaves_the_figures_that_were_there(tmp_path: Path) -> None:
    path, figures = tmp_path / "profiles.json", {"arm": [{"batch_size": 1, "median_ms": 1.0, "high_ms": 2.0}]}
    save_profiles(figures, path)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10, before[1]))
    try:
        with pytest.raises(OSError, match="File too large"):
            save_profiles(figures, path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert json.loads(path.read_text()) == figures
    assert list(tmp_path.iterdir()) == [path]


def test_strings_and_scalars_are_part_of_an_observation(run: Any) -> None:
    options = ("-i", "state=int64", "--text", "prompt=pick up", "--calls", "4")
    assert run("profile", "policies:echo", *options).code == 0


@pytest.mark.parametrize(
    ("args", "problem"),
    [
        (["arm"], "MODEL: no models.known.arm.target in the configuration, and no module:object"),
        (["policies:echo", "-i", "state"], "--input: expected KEY=DTYPE:SHAPE"),
        (["policies:echo", "-i", "state=complex64:3"], "'complex64' is not a dtype of the wire"),
        (["policies:echo", "--text", "prompt"], "--text: expected KEY=STRING, got 'prompt'"),
        (["policies:Batcher", "--batch-sizes", "9"], "--batch-sizes: expected whole numbers from 1 to 4"),
        (
            ["policies:Doubler"],
            "model 'policies:Doubler' failed: KeyError: 'state' (the observation had nothing; --input KEY=DTYPE",
        ),
        (["policies:Batcher", "--out", "no/such/place.json", "-i", "state=float32:7"], "--out: cannot write to"),
        (["policies:nothing"], "policies has no 'nothing'"),
    ],
)
def test_a_mistake_is_reported_in_a_line(run: Any, args: list[str], problem: str) -> None:
    ran = run("profile", *args, "--calls", "4")
    assert ran.code == 2
    assert problem in ran.err
    assert len(ran.err.strip().splitlines()) == 1
