#!/usr/bin/env bash
# mujoco 4.0.0: one NaN in `ctrl` takes the force from every actuator of the model.
# One would guess: `mj_step` raises, or only the actuator with the NaN is without force.
# Seen: all forces of that step are 0, also those of joints that share nothing with it; the NaN stays
# in `ctrl`, so it goes on with each step; Python gets no exception, only a counter in `data.warning`
# rises (and a line goes to MUJOCO_LOG.TXT). A policy with one bad number looks like a robot gone limp.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv venv
venv/bin/python -m pip install --quiet --disable-pip-version-check mujoco==4.0.0 numpy==2.4.6
venv/bin/python - <<'PYTHON'
import sys

import mujoco
import numpy as np

XML = """<mujoco><worldbody>
  <body><joint name="left" type="hinge" axis="0 1 0"/><geom size=".1" mass="1"/></body>
  <body pos="1 0 0"><joint name="right" type="hinge" axis="0 1 0"/><geom size=".1" mass="1"/></body>
</worldbody><actuator><motor joint="left"/><motor joint="right"/></actuator></mujoco>"""


def forces(right):
    model = mujoco.MjModel.from_xml_string(XML)
    data = mujoco.MjData(model)
    data.ctrl[:] = [1.0, right]
    steps = []
    for _ in range(3):
        mujoco.mj_step(model, data)
        steps.append(data.actuator_force.tolist())
    return steps, data.ctrl.tolist(), int(data.warning[mujoco.mjtWarning.mjWARN_BADCTRL].number)


good, _, _ = forces(0.5)
bad, control, warnings = forces(np.nan)
print("ctrl [1, 0.5]: forces of three steps", good)
print("ctrl [1, nan]: forces of three steps", bad, "ctrl afterwards", control, "warnings", warnings)
sys.exit(not (good == [[1.0, 0.5]] * 3 and bad == [[0.0, 0.0]] * 3 and np.isnan(control[1]) and warnings == 3))
PYTHON
