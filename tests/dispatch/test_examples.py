"""The examples in docstrings run as they stand."""

from __future__ import annotations

import inspect
import re
import textwrap

import pytest

from inferential.dispatch import Dispatcher, LocalDispatcher
from inferential.replica.spec import ModelProcess


@pytest.mark.parametrize("documented", [Dispatcher, LocalDispatcher, ModelProcess])
def test_the_example_of_a_docstring_runs(documented: type, capsys: pytest.CaptureFixture[str]) -> None:
    (example,) = re.findall(r"```python\n(.*?)```", inspect.getdoc(documented) or "", re.DOTALL)
    exec(textwrap.dedent(example), {"__name__": "example"})
    if "print(" in example:
        assert capsys.readouterr().out == "[-0.5 -0.5 -0.5]\n"
