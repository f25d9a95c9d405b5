"""Reads a fleet from a file: models, and classes of robots that ask them.

`virtual.generate` makes arrivals and robots of it.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, ValidationError, model_validator

from inferential.config.fields import Node
from inferential.config.files import parse_content, read_file
from inferential.config.problems import ConfigError, Problem, from_validation
from inferential.config.schema import InferentialConfig, ModelsConfig
from inferential.config.section import Count, Expected, NotNegative, Positive, Section
from inferential.config.text import Layer

_CLOSED_ONLY = frozenset({"ask", "refresh", "index", "chunk_steps", "delay_ms", "loss", "slo_ms", "task_steps"})

TURNAROUND_MS = 0.8
"""What a server takes from the end of a call until the next one has begun: as `python -m bench fleet` measures it with
models in threads of a server on two cores."""

Speed = Annotated[float, Field(gt=0, allow_inf_nan=False)]
# What is more than these is a mistake, which a simulation would take all memory for, or the rest of the day.
Robots = Annotated[int, Field(ge=1, le=100_000)]
Steps = Annotated[int, Field(ge=1, le=100_000)]
Rows = Annotated[int, Field(ge=1, le=4_096)]
Replicas = Annotated[int, Field(ge=1, le=4_096)]
Rate = Annotated[float, Field(ge=1e-5, le=100_000)]
Period = Annotated[float, Field(ge=1e-5, le=100_000)]


class SizeFigures(Section):
    """How long calls of one batch size take, as in a file of profiles."""

    batch_size: Rows
    """Rows in a call."""
    median_ms: Positive
    """Of the latency."""
    high_ms: Positive | None = None
    """Its high quantile; not simulated, `spread` is."""


class FleetModel(Section):
    """One model's time."""

    fixed_ms: NotNegative | None = None
    """What a call takes beside its rows."""
    per_row_ms: NotNegative | None = None
    """What each row of a call takes."""
    max_batch_size: Rows = 1
    """Rows in a call, where fixed_ms and per_row_ms are given."""
    profile: Annotated[list[SizeFigures], Field(min_length=1), Expected("a list of a table or more")] | None = None
    """In place of these three, latencies by batch size, as `inferential profile` measures them."""
    spread: Annotated[float, Field(ge=0, le=1)] = 0.05
    """Sigma of the lognormal factor by which the latency of calls varies."""
    replicas: Annotated[
        Replicas | Annotated[list[Speed], Field(min_length=1, max_length=4_096)],
        Expected("a whole number of at least 1 and at most 4096, or a list of numbers above 0"),
    ] = 1
    """How many, or the speed of each: one of speed 2 takes half the time."""
    max_inflight: Count = 1
    """Calls at once on each replica."""
    device: str | None = None
    """Models with the same device run one call at a time among them."""
    turnaround_ms: NotNegative = TURNAROUND_MS
    """From the end of a call, when its answers are sent, until its replica begins the next."""

    @model_validator(mode="after")
    def _has_one_kind_of_time(self) -> FleetModel:
        by_rows = self.fixed_ms is not None or self.per_row_ms is not None
        if by_rows == (self.profile is not None):
            raise ValueError("expected either fixed_ms and per_row_ms, or a profile")
        if by_rows and (self.fixed_ms or 0) + (self.per_row_ms or 0) <= 0:
            raise ValueError("expected a call that takes time: fixed_ms or per_row_ms above 0")
        return self


class RobotClass(Section):
    """Robots that are alike."""

    model: str
    """Which model they ask."""
    count: Robots = 1
    """How many at load 1."""
    kind: Literal["periodic", "irregular", "chunked"] = "periodic"
    """periodic: every period, out of step with each other; irregular: gaps are exponential; chunked: plays chunks of
    horizon_steps and asks for the next as `ask` says."""
    loop: Literal["closed", "open"] | None = None
    """Of chunked robots. closed (the default): what they ask depends on what they are answered. open: they ask each
    time that ask_at_steps would be left if every chunk came in time. The other kinds are always open."""
    rate_hz: Rate | None = None
    """How often each asks; of chunked robots, their control rate."""
    every_s: Period | None = None
    """The same, as a period."""
    jitter_ms: NotNegative = 0.0
    """Standard deviation of each arrival around its time; in closed loop, of the network's delay each way."""
    horizon_steps: Steps | None = None
    """Actions in a chunk, of chunked robots."""
    ask_at_steps: Annotated[int, Field(ge=0)] = 0
    """Actions left when a chunked robot asks for more; in open loop, what they last is its deadline."""
    ask: Literal["runtime", "threshold", "every_step"] | None = None
    """When a robot in closed loop asks. runtime: as `ChunkRuntime` does, when the steps left are as few as its round
    trips may take; threshold: at ask_at_steps (the default where that is given); every_step: always."""
    refresh: bool = False
    """Whether, in closed loop, an observation that waits is replaced by a newer one at each control step."""
    index: Literal["executed", "time"] = "executed"
    """Of a chunk in closed loop, the first action played: the first that was not executed since its observation, as
    `ChunkRuntime` does by default; or by time, that of the present step. They differ where the robot stood."""
    chunk_steps: Steps | None = None
    """Actions in a chunk where that is more than horizon_steps, in closed loop: then horizon_steps counts from the
    first action played, and else from the observation."""
    delay_ms: NotNegative = 0.0
    """Of the network, each way, in closed loop."""
    loss: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Share of the messages that are lost, each way, in closed loop."""
    slo_ms: Positive | None = None
    """In closed loop, the time from asking to the answer within which it is in SLO; without it, budget_ms, and without
    that, what the actions left at asking last."""
    value: Positive = 1.0
    """Of an executed action, in closed loop; for `inferential plan`, in open loop of an answer in time."""
    min_rate_hz: NotNegative = 0.0
    """Answers a second that each robot is due, for `inferential plan`."""
    task_steps: Count = 500
    """Executed actions that make a task, in closed loop."""
    budget_ms: Positive | None = None
    """Time from an observation to its deadline; of chunked robots, until their actions run out."""
    priority: Annotated[int, Field(ge=0)] = 1
    """0 is the highest."""
    urgency: Annotated[float, Field(ge=0, le=1)] = 0.0
    """0 to 1."""
    queue: Literal["latest", "all"] = "latest"
    """Whether a newer observation takes the place of one that waits."""
    late: Literal["serve", "refuse"] = "serve"
    """What becomes of an observation that cannot be answered in time."""
    start_s: NotNegative = 0.0
    """When they join."""
    stop_s: Positive | None = None
    """When they leave."""

    @model_validator(mode="after")
    def _is_whole(self) -> RobotClass:
        if (self.rate_hz is None) == (self.every_s is None):
            raise ValueError("expected either rate_hz or every_s")
        if self.kind == "chunked" and (self.horizon_steps is None or self.ask_at_steps >= self.horizon_steps):
            raise ValueError("horizon_steps: a chunked robot needs more of them than ask_at_steps")
        if self.is_closed:
            if self.ask == "runtime" and self.ask_at_steps:
                raise ValueError("ask_at_steps: expected none where ask is runtime, which finds it by the round trips")
            if self.chunk_steps is not None and self.chunk_steps < (self.horizon_steps or 0):
                raise ValueError(f"chunk_steps: expected at least horizon_steps, got {self.chunk_steps}")
            if self.queue == "all":
                raise ValueError("queue: expected latest of robots in closed loop, got all")
            return self
        if given := sorted(self.model_fields_set & _CLOSED_ONLY):
            raise ValueError(f"{given[0]}: only of robots of kind chunked in closed loop")
        if self.loop == "closed":
            raise ValueError(f"loop: expected open or none for robots of kind {self.kind}, got closed")
        if self.kind == "chunked" and self.budget_ms is None and not self.ask_at_steps:
            raise ValueError("budget_ms: expected it, or ask_at_steps above 0")
        if self.kind != "chunked" and self.budget_ms is None:
            raise ValueError("budget_ms: expected the time that an answer has")
        return self

    @property
    def is_closed(self) -> bool:
        """Whether what these robots ask depends on what they are answered."""
        return self.kind == "chunked" and self.loop != "open"

    @property
    def step_s(self) -> float:
        """Seconds of `rate_hz` or `every_s`: of chunked robots, those of a control step."""
        return self.every_s if self.every_s is not None else 1 / (self.rate_hz or 1.0)

    @property
    def period_s(self) -> float:
        """Seconds between two observations of a robot in open loop; of an irregular one, on average."""
        return self.step_s if self.horizon_steps is None else self.step_s * (self.horizon_steps - self.ask_at_steps)

    @property
    def time_s(self) -> float:
        """Seconds from an observation to its deadline, in open loop."""
        if self.budget_ms is not None:
            return self.budget_ms / 1e3
        return self.ask_at_steps * self.step_s


class Fleet(Section):
    """Models and robots."""

    models: Annotated[dict[str, FleetModel], Field(min_length=1), Expected("a table with a model or more")]
    """How long calls of each model take, by its id."""
    robots: Annotated[dict[str, RobotClass], Field(min_length=1), Expected("a table with a class or more")]
    """What each class of robots does, by its name."""

    @model_validator(mode="after")
    def _models_are_there(self) -> Fleet:
        for name, robots in self.robots.items():
            if robots.model not in self.models:
                raise ValueError(f"robots.{name}.model: {robots.model!r} is not among models: {', '.join(self.models)}")
        return self


def load_fleet(path: str | Path) -> Fleet:
    """Reads a fleet from YAML, TOML or JSON.

    Raises:
        ConfigError: it cannot be read, or a field is wrong; each is named with its place.
    """
    return _fleet(read_file(path))


def example(name: str) -> Fleet:
    """Returns one of the fleets that are shipped; `example_names` lists them.

    Raises:
        ConfigError: there is none of that name.
    """
    if name not in example_names():
        raise ConfigError([Problem("--example", f"expected one of {', '.join(example_names())}, got {name!r}", "")])
    shipped = files(__package__).joinpath("examples", f"{name}.yaml")
    return _fleet(parse_content(f"{name}.yaml", shipped.read_bytes()))


def example_names() -> list[str]:
    """Returns the names of the fleets that are shipped, sorted."""
    shipped = files(__package__).joinpath("examples").iterdir()
    return sorted(path.name.removesuffix(".yaml") for path in shipped if path.name.endswith(".yaml"))


def _fleet(layer: Layer) -> Fleet:
    if _configures_a_server(layer):
        what = (
            "it is a server's configuration, as for `inferential serve`; expected a fleet: the tables models (how long "
            "calls of each take) and robots (classes of them, and how often they ask), as in docs/simulator.md"
        )
        raise ConfigError([Problem("", what, layer.name)])
    try:
        return Fleet.model_validate(layer.values)
    except ValidationError as error:
        raise ConfigError(from_validation(error, lambda key: layer, Node((), Fleet))) from None


def _configures_a_server(layer: Layer) -> bool:
    """Returns whether it is a server's configuration; a file with robots is a fleet, perhaps a wrong one."""
    models = layer.values.get("models")
    of_models = models.keys() & ModelsConfig.model_fields.keys() if isinstance(models, Mapping) else ()
    others = layer.values.keys() & (InferentialConfig.model_fields.keys() - Fleet.model_fields.keys())
    return "robots" not in layer.values and bool(of_models or others)
