"""What a server says of a changed configuration: each change, and once what takes a restart."""

from __future__ import annotations

import logging
from typing import Any

import pytest

from inferential import LocalDispatcher, Server
from inferential.cli.reloads import Reloads
from inferential.config import InferentialConfig


def config(port: int, **more: Any) -> InferentialConfig:
    return InferentialConfig.model_validate({"transport": {"bind": f"tcp://127.0.0.1:{port}"}, **more})


def test_what_takes_a_restart_is_said_once_with_the_value_that_stays(caplog: pytest.LogCaptureFixture) -> None:
    server = Server(config=config(1), dispatcher=LocalDispatcher({}))
    reloads = Reloads(server)

    def said(new: InferentialConfig) -> list[str]:
        caplog.clear()
        with caplog.at_level(logging.INFO, "inferential.serve"):
            reloads.take_on(new)
        return [record.message for record in caplog.records]

    text = (
        "transport.bind: tcp://127.0.0.1:1 -> tcp://127.0.0.1:{} (takes effect at the next start); until then it stays "
    )
    assert said(config(2)) == [text.format(2) + "tcp://127.0.0.1:1"]
    assert said(config(2, scheduling={"max_retries": 1})) == ["scheduling.max_retries: 0 -> 1"]
    assert said(config(3, scheduling={"max_retries": 1})) == [text.format(3) + "tcp://127.0.0.1:1"]
    assert said(config(1, scheduling={"max_retries": 1})) == []
    assert said(config(3, scheduling={"max_retries": 1})) == [text.format(3) + "tcp://127.0.0.1:1"]
    assert server.config.transport.bind == "tcp://127.0.0.1:1"
