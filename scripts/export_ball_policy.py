"""Writes the ball policy of the demo as an ONNX file, src/inferential/sim/ball_policy.onnx.

    python scripts/export_ball_policy.py

Its weights are those of ball_policy.npz (scripts/train_ball_policy.py); `BallPolicy` says what it computes.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from onnx import TensorProto, checker, helper, numpy_helper, save

from inferential.sim import camera
from inferential.sim.policies import FILTER, POSITION_GAIN, VELOCITY_GAIN
from inferential.sim.robots import BallPlate

FOLDER = Path(__file__).parent.parent / "src" / "inferential" / "sim"
OPSET = 17
IR_VERSION = 9  # of onnxruntime 1.17 and newer


def main() -> None:
    """Writes the file and tells its size."""
    with np.load(FOLDER / "ball_policy.npz") as weights:
        constants = _constants({name: weights[name] for name in weights.files})
    steps = [
        ("Cast", ["camera"], ["pixels"], {"to": TensorProto.FLOAT}),
        ("Reshape", ["pixels", "as_images"], ["images"], {}),
        ("Mul", ["images", "contrast"], ["brightness"], {}),
        ("Sub", ["brightness", "half"], ["centred"], {}),
        ("Conv", ["centred", "filter"], ["scores"], {}),
        ("Reshape", ["scores", "as_places"], ["score_by_place"], {}),
        ("Softmax", ["score_by_place"], ["chances"], {"axis": 1}),
        ("MatMul", ["chances", "places"], ["expected"], {}),
        ("Mul", ["expected", "scale"], ["scaled"], {}),
        ("Add", ["scaled", "offset"], ["positions"], {}),
        ("Reshape", ["positions", "as_pairs"], ["before_and_now"], {}),
        ("MatMul", ["before_and_now", "law"], ["actions"], {}),
    ]
    graph = helper.make_graph(
        [helper.make_node(kind, inputs, outputs, **attributes) for kind, inputs, outputs, attributes in steps],
        "ball-policy",
        [
            helper.make_tensor_value_info(
                "camera", TensorProto.UINT8, ["robots", 2, camera.PIXELS, camera.PIXELS], "images, before and now"
            )
        ],
        [helper.make_tensor_value_info("actions", TensorProto.FLOAT, ["robots", 2], "tilts in rad")],
        [numpy_helper.from_array(array, name) for name, array in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION)
    checker.check_model(model, full_check=True)
    out = FOLDER / "ball_policy.onnx"
    save(model, str(out))
    print(f"{out}: {out.stat().st_size} bytes")


def _constants(weights: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    side = np.linspace(-1, 1, camera.PIXELS - FILTER + 1, dtype=np.float32)
    # From (x, y before, x, y now) to tilts: x is tilted about y, y the other way about x.
    speed = VELOCITY_GAIN * BallPlate.control_rate_hz
    law = np.array([[speed, 0], [0, -speed], [-POSITION_GAIN - speed, 0], [0, POSITION_GAIN + speed]], np.float32)
    return {
        "as_images": np.array([-1, 1, camera.PIXELS, camera.PIXELS], np.int64),
        "as_places": np.array([-1, side.size**2], np.int64),
        "as_pairs": np.array([-1, 4], np.int64),
        "contrast": np.float32(1 / 128),
        "half": np.float32(0.5),
        "filter": weights["filter"].reshape(1, 1, FILTER, FILTER).astype(np.float32),
        "places": np.stack(np.meshgrid(side, side), axis=-1).reshape(-1, 2),
        "scale": weights["scale"].astype(np.float32),
        "offset": weights["offset"].astype(np.float32),
        "law": law,
    }


if __name__ == "__main__":
    main()
