"""The package as it is installed and imported: what it offers, and what it does not need."""

from __future__ import annotations

import importlib
import os
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from tests.wheels import build_wheel

import inferential

ROOT = Path(__file__).parents[1]
SERVER_SIDE = (
    "zmq",
    "pydantic",
    "ray",
    "yaml",
    "PIL",
    "typer",
    "rich",
    "watchfiles",
    "ml_dtypes",
    "mujoco",
    "matplotlib",
)


def python(program: str, *, path: Path | None = None) -> subprocess.CompletedProcess[str]:
    env = dict(os.environ)
    if path is not None:
        env["PYTHONPATH"] = str(path)
    return subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False, timeout=120, env=env, cwd="/"
    )


def out_of(program: str, *, path: Path | None = None) -> str:
    done = python(program, path=path)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("name", ["Connection", "AsyncConnection", "Jpeg", "RequestExpired", "__version__"])
def test_what_a_robot_needs_imports_nothing_of_what_a_server_needs(name: str) -> None:
    imported = out_of(f"import sys, inferential; inferential.{name}; print(*sys.modules)").split()
    roots = {module.partition(".")[0] for module in imported}
    assert not roots & set(SERVER_SIDE)
    rooms = {module.split(".")[1] for module in imported if module.startswith("inferential.")}
    assert rooms <= {"client", "dtype_names", "errors", "notices", "proto", "wall_clock", "zmtp"}


def test_a_robot_works_with_nothing_of_what_a_server_needs() -> None:
    program = f"""
import sys
for name in {SERVER_SIDE!r}:
    sys.modules[name] = None
import numpy as np
import inferential
with inferential.Connection("localhost:1") as connection:
    model = connection.model("m")
    print(model.observe(state=np.zeros(3), prompt="go") > 0, model.get_result(timeout_ms=0))
"""
    assert out_of(program).strip() == "True None"


@pytest.mark.parametrize("missing", ["pydantic", "PIL"])
def test_a_server_without_its_extra_is_an_error_that_names_the_extra(missing: str) -> None:
    done = python(f"import sys; sys.modules[{missing!r}] = None\nfrom inferential import Server\nServer")
    if missing == "PIL":  # needed only when an image comes
        assert done.returncode == 0, done.stderr
        return
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("ImportError: inferential.Server needs pydantic, which is not installed")
    assert "pip install 'inferential[edge]'" in last
    assert "'inferential[server]'" in last


def test_an_error_inside_a_users_own_module_is_not_taken_for_a_missing_extra() -> None:
    program = """
import sys
sys.modules["inferential.dispatch.health"] = None
try:
    from inferential import LocalDispatcher
except ModuleNotFoundError as error:
    print("edge" in str(error), error.name)
"""
    assert out_of(program).split() == ["False", "inferential.dispatch.health"]


def test_every_name_that_is_offered_is_there() -> None:
    for name in inferential.__all__:
        assert getattr(inferential, name) is not None
    assert dir(inferential) == sorted(inferential.__all__)


def test_the_names_of_the_contract_are_offered() -> None:
    contract = """
        Server Connection Model AsyncConnection AsyncModel LocalDispatcher InferenceRequest register_policy __version__
        InferenceError RequestRejected RequestExpired RequestSuperseded UnknownModel InvalidObservation ModelFailed
    """
    assert set(contract.split()) <= set(inferential.__all__)


PLACES = {
    "inferential.client": "Connection AsyncConnection Model AsyncModel",
    "inferential.observation": "ObservationAssembler DecodedObservation ObservationError SlotInfo validate_slots",
    "inferential.observation.assembler": "ObservationAssembler DecodedObservation",
    "inferential.observation.slots": "SlotInfo ObservationError validate_slots",
    "inferential.dispatch": "DispatchResult LocalDispatcher EndpointHealth",
    "inferential.dispatch.local": "LocalDispatcher",
    "inferential.dispatch.health": "EndpointHealth",
    "inferential.transport": "IncomingObservation OutgoingResponse ZmqTransport",
    "inferential.transport.messages": "IncomingObservation OutgoingResponse",
    "inferential.transport.zmq_transport": "ZmqTransport",
    "inferential.proto": """
        DType Encoding Client Tensor Observation ModelResponse FLOAT16 FLOAT32 FLOAT64 BFLOAT16 UINT8 INT32 INT64 BOOL
        RAW JPEG PNG DTYPE_UNSPECIFIED ENCODING_UNSPECIFIED
        dtype_from_numpy dtype_to_numpy encoding_from_string encoding_to_string
    """,
}


@pytest.mark.parametrize("place", PLACES)
def test_the_modules_of_the_contract_keep_their_place(place: str) -> None:
    module = importlib.import_module(place)
    for name in PLACES[place].split():
        assert hasattr(module, name), name


def test_no_module_has_more_than_400_lines() -> None:
    lines = {path: len(path.read_text(encoding="utf-8").splitlines()) for path in (ROOT / "src").rglob("*.py")}
    generated = ROOT / "src/inferential/proto/inferential_pb2.py"
    assert {str(path): count for path, count in lines.items() if count > 400 and path != generated} == {}


def test_a_name_that_is_not_offered_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="module 'inferential' has no attribute 'Sever'"):
        inferential.Sever  # noqa: B018


def test_the_version_is_that_of_the_project() -> None:
    inputs = re.search(r'^version = "(.+)"$', (ROOT / "pyproject.toml").read_text(), re.MULTILINE)
    assert inputs is not None
    assert inferential.__version__ == inputs[1]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_wheel(tmp_path_factory.mktemp("build"))


@pytest.mark.slow
def test_a_wheel_brings_the_generated_code_the_schema_and_the_types(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    assert {
        "inferential/proto/inferential_pb2.py",
        "inferential/proto/inferential_pb2.pyi",
        "inferential/proto/inferential.proto",
        "inferential/py.typed",
        f"inferential-{inferential.__version__}.dist-info/licenses/LICENSE",
    } <= names
    assert not [name for name in names if not name.startswith("inferential")]


@pytest.mark.slow
def test_what_a_wheel_brings_can_be_imported(wheel: Path, tmp_path: Path) -> None:
    zipfile.ZipFile(wheel).extractall(tmp_path)
    program = """
import inferential
from inferential import Server
from inferential.proto import Observation
print(inferential.__file__, Observation(model_id="m").model_id)
"""
    place, model_id = out_of(program, path=tmp_path).split()
    assert Path(place).is_relative_to(tmp_path)
    assert model_id == "m"


@pytest.mark.slow
def test_a_wheel_needs_nothing_of_what_a_server_needs(wheel: Path) -> None:
    (metadata,) = (name for name in zipfile.ZipFile(wheel).namelist() if name.endswith(".dist-info/METADATA"))
    text = zipfile.ZipFile(wheel).read(metadata).decode()
    needed = re.findall(r"^Requires-Dist: ([\w-]+)[^;\n]*$", text, re.MULTILINE)
    assert sorted(needed) == ["numpy", "protobuf"]
    for extra in ("edge", "server", "ray", "dev"):
        assert f"Provides-Extra: {extra}\n" in text
