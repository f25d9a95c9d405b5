"""An ONNX file as a model: what the file decides, batches, and what does not fit."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto
from tests.policies import onnx_files

from inferential.errors import InvalidObservation
from inferential.policies.files import PolicyFileError
from inferential.policies.onnx import BatchedOnnxPolicy, OnnxPolicy, open_onnx

FLOAT = TensorProto.FLOAT


@pytest.fixture
def policy(tmp_path: Path) -> BatchedOnnxPolicy:
    found = open_onnx(str(onnx_files.doubling(tmp_path / "double.onnx")))
    assert isinstance(found, BatchedOnnxPolicy)
    return found


def test_names_dtypes_and_shapes_come_from_the_file(policy: OnnxPolicy) -> None:
    assert [str(one) for one in policy.inputs] == ["state: float32 [3]"]
    assert policy.metadata["inputs"] == [{"name": "state", "dtype": "float32", "shape": [3]}]
    assert policy.metadata["outputs"] == [{"name": "actions", "dtype": "float32", "shape": [3]}]
    assert policy.metadata["output_names"] == ["action"]


def test_an_only_output_is_the_actions(policy: OnnxPolicy) -> None:
    assert policy.infer({"state": np.array([1, 2, 3])})["actions"].tolist() == [2, 4, 6]


def test_a_batch_runs_at_once_and_a_row_that_does_not_fit_ends_alone(policy: BatchedOnnxPolicy) -> None:
    rows: list[dict[str, Any]] = [{"state": np.full(3, n, np.float64)} for n in range(4)]
    rows[2] = {"state": np.ones(5)}
    outcomes = policy.infer_batch(rows)
    assert isinstance(outcomes[2], InvalidObservation)
    assert [outcomes[n]["actions"].tolist() for n in (0, 1, 3)] == [[0.0] * 3, [2.0] * 3, [6.0] * 3]


def test_rows_of_different_sizes_run_apart(tmp_path: Path) -> None:
    policy = open_onnx(str(onnx_files.doubling(tmp_path / "free.onnx", size="steps")))
    assert isinstance(policy, BatchedOnnxPolicy)
    outcomes = policy.infer_batch([{"state": np.ones(size)} for size in (2, 3, 2)])
    assert [outcome["actions"].shape for outcome in outcomes] == [(2,), (3,), (2,)]


def test_a_file_for_one_robot_gets_its_axis_and_no_batches(tmp_path: Path) -> None:
    policy = open_onnx(str(onnx_files.doubling(tmp_path / "one.onnx", batch=1)))
    assert not hasattr(policy, "infer_batch")
    assert policy.infer({"state": np.ones(3)})["actions"].tolist() == [2.0] * 3


def test_a_file_without_a_batch_axis_gets_arrays_as_they_are(tmp_path: Path) -> None:
    policy = open_onnx(str(onnx_files.doubling(tmp_path / "none.onnx", batch=2)))
    assert policy.infer({"state": np.ones((2, 3))})["actions"].shape == (2, 3)


def test_an_input_without_axes_is_one_for_the_call_of_a_robot(tmp_path: Path) -> None:
    path = onnx_files.write(
        tmp_path / "weighted.onnx",
        [("Mul", ["observation.state", "weight"], ["action"])],
        {"observation.state": (FLOAT, ["n", 2]), "weight": (FLOAT, [])},
        {"action": (FLOAT, ["n", 2])},
    )
    policy = open_onnx(str(path))
    assert not hasattr(policy, "infer_batch")
    assert policy.infer({"observation.state": np.ones(2), "weight": 3})["actions"].tolist() == [3, 3]


def test_where_one_input_is_for_one_robot_all_are(tmp_path: Path) -> None:
    path = onnx_files.write(
        tmp_path / "mixed.onnx",
        [("Add", ["state", "goal"], ["action"])],
        {"state": (FLOAT, ["n", 2]), "goal": (FLOAT, [1, 2])},
        {"action": (FLOAT, ["n", 2])},
    )
    assert open_onnx(str(path)).infer({"state": np.ones(2), "goal": np.ones(2)})["actions"].tolist() == [2, 2]


def folding(path: Path, size: Any) -> str:
    """A file that makes one row of all robots' rows, as the file says or does not say."""
    nodes = [("Constant", [], ["form"], {"value_ints": [1, -1]}), ("Reshape", ["x", "form"], ["y"])]
    return str(onnx_files.write(path, nodes, {"x": (FLOAT, ["n", 2])}, {"y": (FLOAT, [size, "m"])}))


def test_a_file_whose_outputs_are_one_row_runs_one_robot_a_call(tmp_path: Path) -> None:
    policy = open_onnx(folding(tmp_path / "folding.onnx", 1))
    assert not hasattr(policy, "infer_batch")
    assert policy.infer({"x": np.ones(2)})["actions"].tolist() == [1, 1]


def test_a_file_whose_outputs_have_another_size_gets_arrays_as_they_are(tmp_path: Path) -> None:
    path = onnx_files.write(
        tmp_path / "history.onnx",
        [("ReduceMean", ["seen"], ["action"], {"axes": [0, 1], "keepdims": 0})],
        {"seen": (FLOAT, ["steps", 4, 7])},
        {"action": (FLOAT, [7])},
    )
    policy = open_onnx(str(path))
    assert policy.infer({"seen": np.ones((5, 4, 7))})["actions"].shape == (7,)


def test_batched_says_it_where_an_exporter_left_its_example_in_the_outputs(tmp_path: Path) -> None:
    path = onnx_files.write(
        tmp_path / "stale.onnx", [("Neg", ["x"], ["y"])], {"x": (FLOAT, ["n", 2])}, {"y": (FLOAT, [1, 2])}
    )
    assert not hasattr(open_onnx(str(path)), "infer_batch")
    policy = open_onnx(str(path), batched=True)
    assert isinstance(policy, BatchedOnnxPolicy)
    assert [one["actions"].tolist() for one in policy.infer_batch([{"x": np.full(2, n)} for n in (1, 2)])] == [
        [-1, -1],
        [-2, -2],
    ]


def test_an_axis_that_a_tensor_has_twice_counts_no_robots(tmp_path: Path) -> None:
    path = onnx_files.write(
        tmp_path / "masked.onnx",
        [("MatMul", ["mask", "seen"], ["action"])],
        {"seen": (FLOAT, ["steps", 3]), "mask": (FLOAT, ["steps", "steps"])},
        {"action": (FLOAT, ["steps", 3])},
    )
    policy = open_onnx(str(path))
    assert not hasattr(policy, "infer_batch")
    assert policy.infer({"seen": np.ones((2, 3)), "mask": np.eye(2)})["actions"].shape == (2, 3)


def added(path: Path) -> str:
    """A file whose two inputs have an axis of one name, and of sizes that are added."""
    inputs: onnx_files.Shapes = {name: (FLOAT, ["n", "joints"]) for name in ("state", "goal")}
    return str(
        onnx_files.write(path, [("Add", ["state", "goal"], ["action"])], inputs, {"action": (FLOAT, ["n", "joints"])})
    )


@pytest.mark.parametrize("size", [1, 2])
def test_axes_of_one_name_have_one_size(tmp_path: Path, size: int) -> None:
    policy = open_onnx(added(tmp_path / "added.onnx"))
    assert isinstance(policy, BatchedOnnxPolicy)
    wrong, right = ({"state": np.ones(3, np.float32), "goal": np.ones(other)} for other in (size, 3))
    text = f"'goal': expected 3 for 'joints', as in 'state', got float32 [{size}]"
    with pytest.raises(InvalidObservation, match=re.escape(text)):
        policy.infer(wrong)
    outcomes = policy.infer_batch([right, wrong, right])
    assert [one["actions"].tolist() for one in (outcomes[0], outcomes[2])] == [[2.0] * 3] * 2
    assert isinstance(outcomes[1], InvalidObservation)


def test_what_fails_while_it_runs_is_said_once_and_in_short(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    nodes = [("Reshape", ["x", "form"], ["y"])]
    inputs: onnx_files.Shapes = {"x": (FLOAT, [6]), "form": (TensorProto.INT64, [2])}
    policy = open_onnx(str(onnx_files.write(tmp_path / "form.onnx", nodes, inputs, {"y": (FLOAT, [2, "k"])})))
    assert policy.infer({"x": np.ones(6), "form": [2, 3]})["actions"].shape == (2, 3)
    with pytest.raises(RuntimeError, match=r"^onnxruntime: Reshape node\. Name:'' The input tensor cannot be reshaped"):
        policy.infer({"x": np.ones(6), "form": [2, 4]})
    assert capfd.readouterr().err == ""


def test_a_file_without_inputs_or_outputs_is_refused(tmp_path: Path) -> None:
    files = {
        "inputs": ([("Constant", [], ["y"], {"value_floats": [1.0]})], {}, {"y": (FLOAT, [1])}),
        "outputs": ([("Neg", ["x"], ["y"])], {"x": (FLOAT, ["n", 2])}, {}),
    }
    for what, (nodes, inputs, outputs) in files.items():
        path = onnx_files.write(tmp_path / f"{what}.onnx", nodes, inputs, outputs)
        with pytest.raises(PolicyFileError, match=f"has no {what}: expected those of a policy"):
            open_onnx(str(path))


def test_several_outputs_keep_their_names(tmp_path: Path) -> None:
    path = onnx_files.write(
        tmp_path / "two.onnx",
        [("Neg", ["x"], ["arm"]), ("Abs", ["x"], ["gripper"])],
        {"x": (FLOAT, ["n", 2])},
        {"arm": (FLOAT, ["n", 2]), "gripper": (FLOAT, ["n", 2])},
        version="7",
    )
    policy = open_onnx(str(path))
    assert {key: value.tolist() for key, value in policy.infer({"x": [1, 2]}).items()} == {
        "arm": [-1, -2],
        "gripper": [1, 2],
    }
    assert policy.model_version == "7"


def summing(path: Path) -> str:
    """A file with an output for each robot, and one for all of them."""
    nodes = [("ReduceSum", ["x"], ["total"], {"keepdims": 0}), ("Neg", ["x"], ["action"])]
    outputs: onnx_files.Shapes = {"action": (FLOAT, ["n", 2]), "total": (FLOAT, [])}
    return str(onnx_files.write(path, nodes, {"x": (FLOAT, ["n", 2])}, outputs))


def test_an_output_without_axes_is_one_for_the_call_of_a_robot(tmp_path: Path) -> None:
    policy = open_onnx(summing(tmp_path / "sum.onnx"))
    assert not hasattr(policy, "infer_batch")
    result = policy.infer({"x": [1, 2]})
    assert (result["action"].tolist(), result["total"].tolist()) == ([-1, -2], 3)


def test_an_output_without_rows_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="output 'total': expected 1 rows, one for each observation"):
        open_onnx(summing(tmp_path / "sum.onnx"), batched=True).infer({"x": [1, 2]})


@pytest.mark.parametrize("element", [TensorProto.FLOAT16, TensorProto.DOUBLE, TensorProto.INT64, TensorProto.INT32])
def test_whatever_dtype_the_file_has_the_robot_may_send_another(tmp_path: Path, element: int) -> None:
    policy = open_onnx(str(onnx_files.doubling(tmp_path / "typed.onnx", element=element)))
    assert policy.infer({"state": np.array([1, 2, 3], ">i2")})["actions"].tolist() == [2, 4, 6]


def test_texts_are_inputs_too(tmp_path: Path) -> None:
    path = onnx_files.write(
        tmp_path / "text.onnx",
        [("Identity", ["task"], ["said"])],
        {"task": (TensorProto.STRING, ["n"])},
        {"said": (TensorProto.STRING, ["n"])},
    )
    policy = open_onnx(str(path))
    assert isinstance(policy, BatchedOnnxPolicy)
    assert policy.infer_batch([{"task": "pick"}, {"task": "place"}]) == [{"actions": "pick"}, {"actions": "place"}]


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"threads": 0}, "threads: expected a whole number above 0, got 0"),
        ({"max_batch_size": 0}, "max_batch_size: expected a whole number above 0, got 0"),
        ({"providers": ["TPU"]}, "providers: expected of "),
        ({"providers": "CPUExecutionProvider"}, "providers: expected a list, got 'CPUExecutionProvider'"),
        ({"batched": "no"}, "batched: expected true or false, got 'no'"),
    ],
)
def test_options_that_cannot_be_are_named(tmp_path: Path, options: dict[str, Any], text: str) -> None:
    path = onnx_files.doubling(tmp_path / "double.onnx")
    with pytest.raises(ValueError, match=re.escape(text)):
        open_onnx(str(path), **options)


def test_batched_needs_an_axis_that_varies(tmp_path: Path) -> None:
    path = onnx_files.doubling(tmp_path / "none.onnx", batch=2)
    with pytest.raises(
        ValueError, match=re.escape("expected inputs whose first axis varies or is 1, got state [2, 3]")
    ):
        open_onnx(str(path), batched=True)


@pytest.mark.parametrize(
    ("version", "text"),
    [({"ir_version": 99}, "Unsupported model IR version: 99, "), ({"opset": 99}, "ONNX Runtime only ")],
)
def test_a_file_that_is_newer_than_onnxruntime_says_so_first(
    tmp_path: Path, version: dict[str, int], text: str
) -> None:
    path = onnx_files.doubling(tmp_path / "new.onnx")
    model = onnx.load(str(path))
    model.ir_version = version.get("ir_version", model.ir_version)
    model.opset_import[0].version = version.get("opset", model.opset_import[0].version)
    onnx.save(model, str(path))
    with pytest.raises(PolicyFileError, match=re.escape(f"onnxruntime cannot read {path}: {text}")):
        open_onnx(str(path))


def test_what_is_no_such_file_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(PolicyFileError, match="does not exist"):
        open_onnx(str(tmp_path / "nowhere.onnx"))
    with pytest.raises(PolicyFileError, match="is a folder"):
        open_onnx(str(tmp_path))
    (tmp_path / "empty.onnx").write_bytes(b"")
    with pytest.raises(PolicyFileError, match=r"empty\.onnx is empty"):
        open_onnx(str(tmp_path / "empty.onnx"))
    (tmp_path / "pointer.onnx").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n")
    with pytest.raises(PolicyFileError, match=r"pointer\.onnx is a pointer of Git LFS, .*: run git lfs pull"):
        open_onnx(str(tmp_path / "pointer.onnx"))
    (tmp_path / "bad.onnx").write_bytes(b"not a graph")
    with pytest.raises(PolicyFileError, match=r"onnxruntime cannot read .*bad\.onnx"):
        open_onnx(str(tmp_path / "bad.onnx"))


def test_weights_beside_the_file_that_are_not_there_are_named(tmp_path: Path) -> None:
    path, weights = tmp_path / "arm.onnx", tmp_path / "arm.weights"
    onnx_files.with_weights_beside(path, weights.name)
    assert open_onnx(str(path)).infer({"state": np.ones(3)})["actions"].tolist() == [3.0] * 400
    weights.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n")
    with pytest.raises(PolicyFileError, match=r"; .*arm\.weights is a pointer of Git LFS, .*: run git lfs") as found:
        open_onnx(str(path))
    assert ".cc:" not in str(found.value)
    weights.unlink()
    with pytest.raises(PolicyFileError, match=r"External data path does not exist: .*arm\.weights") as found:
        open_onnx(str(path))
    assert ".cc:" not in str(found.value)
