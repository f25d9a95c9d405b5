"""What can be wrong with a policy's file before anything reads it."""

from __future__ import annotations

import shlex

from inferential.policies.files import missing_package


def test_a_package_that_is_missing_is_named_with_a_command_that_installs_it() -> None:
    said = str(missing_package(ModuleNotFoundError(name="onnxruntime"), "onnxruntime", "onnxruntime-gpu"))
    assert said.startswith("needs onnxruntime or onnxruntime-gpu; onnxruntime is not installed: ")
    assert shlex.split(said.partition("installed: ")[2])[1:] == ["-m", "pip", "install", "onnxruntime"]
