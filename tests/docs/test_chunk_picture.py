"""The picture of docs/chunks.md shows what its text says."""

from __future__ import annotations

import importlib.util
import itertools
import sys
from pathlib import Path
from types import ModuleType

import pytest

SCRIPT = Path(__file__).parents[2] / "scripts" / "draw_chunks.py"


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    pytest.importorskip("matplotlib")
    spec = importlib.util.spec_from_file_location("draw_chunks", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "draw_chunks", module)
    spec.loader.exec_module(module)
    return module


def test_the_run_skips_passed_steps_holds_stops_and_blends_in(script: ModuleType, tmp_path: Path) -> None:
    story = script.play()
    assert [(kind, len(list(steps))) for kind, steps in itertools.groupby(story.kinds)] == [
        ("chunk", 35),
        ("held", 5),  # hold_ms of 250 at 20 Hz
        ("stopped", 44),
        ("blended", 4),  # 200 ms at most, less one step
        ("chunk", 32),
    ]
    assert [chunk.played_from for chunk in story.chunks] == [0, 4, 0, 4, 4]
    script.draw(story, [tmp_path / "chunks.svg"])
    assert (tmp_path / "chunks.svg").stat().st_size > 10_000
