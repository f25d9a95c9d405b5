"""A TorchScript file as a model, behind a server, with the real torch."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import numpy as np
import pytest
from tests.policies import peers

from inferential import AsyncConnection, AsyncModel, InvalidObservation, LocalDispatcher, ModelProcess, Server

WRITE = """
import json, sys, torch
from typing import Dict, List, NamedTuple, Optional

class Reach(torch.nn.Module):
    def forward(self, state, goal):
        return (goal - state) * 0.5

class Two(torch.nn.Module):
    def forward(self, state):
        return state + 1, state.sum(dim=1, keepdim=True)

class Mapped(torch.nn.Module):
    def forward(self, seen: Dict[str, torch.Tensor], gain: float = 2.0):
        return seen["observation.state"] * gain

class Odd(torch.nn.Module):
    def forward(self, state, names: List[str]):
        return state

class Said(NamedTuple):
    arm: torch.Tensor
    gripper: torch.Tensor

class Named(torch.nn.Module):
    def forward(self, state, goal: Optional[torch.Tensor]):
        if goal is not None:
            state = state + goal
        return Said(state, state[:, 0])

class Summed(torch.nn.Module):
    def forward(self, state):
        return state.sum()

class Nested(torch.nn.Module):
    def forward(self, state):
        return state, (state, state)

class Headless(torch.nn.Module):
    @torch.jit.export
    def act(self, state: torch.Tensor):
        return state

class Recurrent(torch.nn.Module):  # as rsl_rl exports its own
    def __init__(self):
        super().__init__()
        self.register_buffer("hidden_state", torch.zeros(1, 1, 2))

    def forward(self, x):
        self.hidden_state[:] = self.hidden_state + x.unsqueeze(0)
        return self.hidden_state.squeeze(0) * 1.0

class Counting(torch.nn.Module):
    calls: int

    def __init__(self):
        super().__init__()
        self.calls = 0
        self.inner = Recurrent()

    def forward(self, x):
        self.calls += 1
        return self.inner(x), x * self.calls

class Caching(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.weights = torch.zeros(0)

    def forward(self, x):
        if self.weights.numel() == 0:
            self.weights = torch.full((2,), 3.0)
        return x * self.weights

class Appending(torch.nn.Module):
    seen: List[torch.Tensor]

    def __init__(self):
        super().__init__()
        self.seen = []

    def forward(self, x):
        self.seen.append(x)
        return torch.stack(self.seen).sum(0)

class Mapping(torch.nn.Module):
    state: Dict[str, torch.Tensor]

    def __init__(self):
        super().__init__()
        self.state = {"hidden": torch.zeros(1, 2)}

    def forward(self, x):
        self.state["hidden"] = self.state["hidden"] + x
        return self.state["hidden"]

class Holding(torch.nn.Module):
    cells: List[torch.Tensor]

    def __init__(self):
        super().__init__()
        self.cells = [torch.zeros(1, 2)]

    def forward(self, x):
        for cell in self.cells:
            cell += x
        return self.cells[0] * 1.0

class Writing(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.register_buffer("hidden", torch.zeros(1, 2))

    def forward(self, x):
        torch.add(self.hidden, x, out=self.hidden)
        return self.hidden * 1.0

class Splitting(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.register_buffer("hidden", torch.zeros(2, 2))
        self.head = torch.nn.Sequential(torch.nn.Identity(), torch.nn.ReLU(inplace=True))

    def forward(self, x):
        first, second = self.hidden.chunk(2)
        first.add_(x)
        return self.head(first * 1.0)

class Picky(torch.nn.Module):
    def forward(self, state):
        assert bool((state >= 1).all()), "below 1"
        return state

torch.jit.save(torch.jit.trace(torch.nn.Dropout(), torch.ones(2, 2), check_trace=False), sys.argv[1] + "/training.pt")
for name, dropped in (("forgetful", 0.5), ("steady", 0.0)):
    lstm = torch.nn.LSTM(2, 2, num_layers=2, dropout=dropped)
    torch.jit.save(torch.jit.trace(lstm, torch.ones(2, 1, 2), check_trace=False), f"{sys.argv[1]}/{name}.pt")
net = torch.nn.Sequential(torch.nn.BatchNorm1d(2), torch.nn.Dropout())
torch.jit.save(torch.jit.script(net), sys.argv[1] + "/net.pt")
modules = [Named(), Summed(), Nested(), Headless(), Recurrent(), Counting(), Caching(), Picky()]
modules += [Appending(), Mapping(), Holding(), Writing(), Splitting()]
for module in modules:
    torch.jit.save(torch.jit.script(module), f"{sys.argv[1]}/{type(module).__name__.lower()}.pt")
torch.save(torch.nn.Linear(3, 2).state_dict(), sys.argv[1] + "/weights.pt")
torch.jit.save(torch.jit.script(Mapped()), sys.argv[1] + "/mapped.pt")
torch.jit.save(torch.jit.script(Odd()), sys.argv[1] + "/odd.pt")
torch.jit.save(torch.jit.script(Reach()), sys.argv[1] + "/reach.pt")
torch.jit.save(torch.jit.script(Two()), sys.argv[1] + "/two.pt")
print(json.dumps(torch.__version__))
"""


pytestmark = pytest.mark.timeout(600)  # importing torch takes long on a slow machine


@pytest.fixture
def python(tmp_path: Path) -> str:
    found = peers.interpreter("torch")
    peers.run(found, WRITE, str(tmp_path))
    return found


async def test_robots_share_calls_and_get_each_their_row(python: str, tmp_path: Path) -> None:
    inputs = {"state": {"dtype": "float32", "shape": [2]}, "goal": {"dtype": "float32", "shape": [2]}}
    models = {
        "reach": ModelProcess(f"torchscript:{tmp_path}/reach.pt", args={"inputs": inputs}, python=python),
        "two": ModelProcess(f"torchscript:{tmp_path}/two.pt", args={"outputs": ["arm", "sum"]}, python=python),
        "mapped": ModelProcess(
            f"torchscript:{tmp_path}/mapped.pt", args={"inputs": {"observation.state": {"shape": [3]}}}, python=python
        ),
        "free": ModelProcess(f"torchscript:{tmp_path}/two.pt", python=python),
    }
    async with (
        Server("tcp://127.0.0.1:0", dispatcher=LocalDispatcher(models)) as server,
        AsyncConnection(server.address) as connection,
    ):
        for model_id in models:
            await server.model_ready(model_id)
        reach = connection.model("reach", queue="all")
        rows = await asyncio.gather(
            *(reach.infer(60_000, state=np.full(2, n, ">f8"), goal=np.full(2, 8)) for n in range(4))
        )
        assert [row and row["actions"].tolist() for row in rows] == [[(8 - n) / 2] * 2 for n in range(4)]
        with pytest.raises(InvalidObservation, match=r"'goal': expected float32 \[2\], got float64 \[3\]"):
            await reach.infer(60_000, state=np.ones(2), goal=np.ones(3))
        two = await connection.model("two").infer(60_000, state=np.arange(3, dtype=np.float32))
        assert two is not None
        assert (two["arm"].tolist(), two["sum"].tolist()) == ([1, 2, 3], [3])
        mapped = await connection.model("mapped").infer(60_000, observation={"observation.state": np.ones(3)})
        assert mapped is not None
        assert mapped["actions"].tolist() == [2, 2, 2]
        free = await connection.model("free").infer(60_000, state=np.arange(3, dtype=np.float32))
        assert free is not None
        assert free["output_0"].tolist() == [1, 2, 3]


REFUSED = """
import json
from inferential.policies.torchscript import open_torchscript

found = []
for file, options in json.loads(sys.argv[2]):
    try:
        open_torchscript(f"{sys.argv[1]}/{file}", **options)
    except ValueError as error:
        found.append(str(error).replace(sys.argv[1], ""))
print(json.dumps(found))
"""


def test_what_cannot_be_a_policy_is_named(python: str, tmp_path: Path) -> None:
    (tmp_path / "cut.pt").write_bytes((tmp_path / "reach.pt").read_bytes()[:200])
    asked: list[tuple[str, dict[str, object]]] = [
        ("odd.pt", {}),
        ("mapped.pt", {}),
        ("reach.pt", {"inputs": {"state": {}}}),
        ("reach.pt", {"device": "cuda:99"}),
        ("cut.pt", {}),
        ("weights.pt", {}),
        ("headless.pt", {}),
        ("reach.pt", {"inputs": ["state", "goal"]}),
        ("two.pt", {"outputs": "arm"}),
        ("two.pt", {"outputs": ["arm", "arm"]}),
        ("two.pt", {"keeps_state": True}),
        ("two.pt", {"keeps_state": "no"}),
        ("training.pt", {}),
        ("forgetful.pt", {}),
        ("steady.pt", {}),
    ]
    found = peers.run(python, REFUSED, str(tmp_path), json.dumps(asked))
    assert found[0] == "/odd.pt: forward(state: Tensor, names: List[str]): names: expected tensors, or a map of them"
    assert found[1].startswith("inputs: expected those of the map in forward(seen: Dict[str, Tensor], gain: float)")
    assert found[2] == "inputs: expected those of forward(state: Tensor, goal: Tensor), got state"
    assert found[3].startswith("device: 'cuda:99': ")
    assert found[4].startswith("torch cannot read /cut.pt as TorchScript: ")
    assert found[5].startswith(
        "torch cannot read /weights.pt as TorchScript: expected what torch.jit.save wrote, no state_"
    )
    assert found[6] == "/headless.pt: expected a module with forward(), got Headless without it"
    assert found[7] == "inputs: expected a map of names to dtype and shape, got ['state', 'goal']"
    assert found[8] == "outputs: expected a list of names, got 'arm'"
    assert found[9] == "outputs: expected different names, got arm, arm"
    assert found[10] == "keeps_state: /two.pt: its forward() changes no attribute"
    assert found[11] == "keeps_state: expected true or false, got 'no'"
    assert found[12].startswith("/training.pt: its dropout runs as in training, ")
    assert found[13].startswith("/forgetful.pt: its lstm runs as in training, ")
    assert len(found) == 14  # a module that drops nothing runs as it is


CALLED = """
import json, numpy as np
from inferential.policies.torchscript import open_torchscript

found = []
state = {"state": np.arange(3, dtype=np.float32), "goal": np.ones(3, np.float32)}
for file in ("named", "summed", "nested", "reach", "picky"):
    seen = {**state, "goal": np.ones(2, np.float32)} if file == "reach" else state
    try:
        answers = open_torchscript(f"{sys.argv[1]}/{file}.pt").infer_batch([seen])
    except Exception as error:
        found.append(str(error))
    else:
        found.append({key: value.tolist() for key, value in answers[0].items()})
lenient = open_torchscript(f"{sys.argv[1]}/named.pt", inputs={"state": {}, "goal": {"optional": True}})
for policy in (lenient, open_torchscript(f"{sys.argv[1]}/named.pt")):
    answers = policy.infer_batch([{"state": state["state"]}, state])
    found.append([one["arm"].tolist() for one in answers])
print(json.dumps(found))
"""


def test_outputs_are_tensors_with_a_row_for_each_robot(python: str, tmp_path: Path) -> None:
    named, summed, nested, unfit, picky, lenient, by_type = peers.run(python, CALLED, str(tmp_path))
    assert named == {"arm": [1, 2, 3], "gripper": 1}
    assert lenient == by_type == [[0, 1, 2], [1, 2, 3]]
    assert summed == "output 'actions': expected 1 rows, one for each observation, got ()"
    assert nested == "output 'output_1': expected a tensor of forward(), got tuple"
    assert unfit.startswith("The size of tensor a (2) must match the size of tensor b (3)")
    assert unfit.endswith("(forward() was given state float32 [1, 3], goal float32 [1, 2])")
    assert picky == "AssertionError: below 1 (forward() was given state float32 [1, 3])"


async def test_what_a_module_keeps_in_itself_is_each_robots_own(python: str, tmp_path: Path) -> None:
    target = f"torchscript:{tmp_path}/recurrent.pt"
    models = {"walk": ModelProcess(target, args={"inputs": {"x": {"dtype": "float32", "shape": [2]}}}, python=python)}
    async with (
        Server("tcp://127.0.0.1:0", dispatcher=LocalDispatcher(models)) as server,
        AsyncConnection(server.address, "one") as first,
        AsyncConnection(server.address, "two") as second,
    ):
        await server.model_ready("walk")
        one, two = first.model("walk"), second.model("walk")

        async def step(model: AsyncModel, x: float) -> object:
            result = await model.infer(60_000, x=np.full(2, x))
            return result and result["actions"].tolist()

        assert [await step(one, 1), await step(two, 10), await step(one, 1), await step(two, 10)] == [
            [1, 1],
            [10, 10],
            [2, 2],
            [20, 20],
        ]
        with pytest.raises(InvalidObservation, match=r"'x': expected float32 \[2\], got float64 \[3\]"):
            await one.infer(60_000, x=np.ones(3))
        await one.reset()
        assert [await step(one, 1), await step(two, 10)] == [[1, 1], [30, 30]]


KEPT = """
import json, numpy as np
from types import SimpleNamespace
from inferential.policies.torchscript import open_torchscript

counting = open_torchscript(f"{sys.argv[1]}/counting.pt")
robots = [SimpleNamespace(state=None), SimpleNamespace(state=None)]
row = {"x": np.ones(2, np.float32)}
answers = [counting.infer(row, robot) for robot in (robots[0], robots[0], robots[1])]
caching = open_torchscript(f"{sys.argv[1]}/caching.pt", keeps_state=False).infer_batch([row, row])
found = [[value.tolist() for value in answer.values()] for answer in (*answers, *caching)]
net = open_torchscript(f"{sys.argv[1]}/net.pt")
print(json.dumps([found, hasattr(net, "infer_batch"), counting.metadata["outputs"]]))
"""


APART = """
import json, numpy as np
from types import SimpleNamespace
from inferential.policies.torchscript import open_torchscript

found = {}
for file in sys.argv[2:]:
    policy = open_torchscript(f"{sys.argv[1]}/{file}.pt")
    robots = [SimpleNamespace(state=None), SimpleNamespace(state=None)]
    found[file] = [
        policy.infer({"x": np.full(2, size, np.float32)}, robots[number])["actions"].tolist()
        for number, size in ((0, 1), (1, 10), (0, 1), (1, 10))
    ]
print(json.dumps(found))
"""


def test_what_a_module_writes_to_in_whatever_way_is_each_robots_own(python: str, tmp_path: Path) -> None:
    files = ("recurrent", "appending", "mapping", "holding", "writing", "splitting")
    found = peers.run(python, APART, str(tmp_path), *files)
    assert found == {file: [[1, 1], [10, 10], [2, 2], [20, 20]] for file in files}


def test_attributes_of_any_kind_and_depth_are_kept_unless_they_are_a_cache(python: str, tmp_path: Path) -> None:
    found, net_batches, outputs = peers.run(python, KEPT, str(tmp_path))
    assert found == [[[1, 1], [1, 1]], [[2, 2], [2, 2]], [[1, 1], [1, 1]], [[3, 3]], [[3, 3]]]
    assert net_batches
    assert [one["name"] for one in outputs] == ["output_0", "output_1"]
