"""The tables of gateways for LeRobot's client and for JSON over HTTP; those of openpi and GR00T are in `schema`."""

from __future__ import annotations

from typing import Annotated, ClassVar

from pydantic import Field

from inferential.config.section import NotNegative, Port, Positive
from inferential.config.security import FilePath
from inferential.config.services import GatewayConfig
from inferential.config.tokens import RobotTokens

ANY_MODEL = "*"
"""In place of a model: every model."""


class LeRobotConfig(GatewayConfig):
    """Robots that run LeRobot's `RobotClient` (gRPC, asynchronous inference)."""

    title: ClassVar[str] = "LeRobot gateway"
    scheme: ClassVar[str] = "grpc"
    package: ClassVar[str] = "grpc"
    extra: ClassVar[str] = "lerobot"

    host: str = "127.0.0.1"
    """Address to listen on; 0.0.0.0 for every interface: the protocol has no key."""
    port: Port = 8080
    """Port to listen on; 0 for a free one."""
    fps: Positive = 30.0
    """Actions that the robots play per second (RobotClient's fps): for deadlines and the actions' timestamps."""
    wait_ms: Annotated[float, Field(gt=0, le=10_000)] = 1000.0
    """How long GetActions waits for actions before it answers that there are none yet."""
    timeout_ms: Positive = 120_000.0
    """How long an answer may take, a model's slow first call included; then the robot gets an error."""
    skip_similar: bool = False
    """Whether observations are skipped, unless the robot has no actions left, whose joints moved less than 1 in all,
    or whose timestep was answered before, as LeRobot's own server does."""


class HttpGatewayConfig(GatewayConfig):
    """A gateway over HTTP."""

    scheme: ClassVar[str] = "http"

    host: str = "127.0.0.1"
    """Address to listen on; 0.0.0.0 for every interface, which wants a token."""
    token: RobotTokens = None
    """Required as Authorization: Bearer TOKEN, or its hash as sha256:HEX, or a list of tokens; none: every robot is
    served. A map {id, key} is the token of one robot, which has that id and its rights."""
    tls_certificate: FilePath | None = None
    """PEM file of the certificate, with those between it and its root; with it robots ask by https://."""
    tls_key: FilePath | None = None
    """PEM file of the certificate's key; None: it is in the same file."""
    timeout_ms: Positive = 120_000.0
    """How long an answer may take, a model's slow first call included; then the robot gets an error."""


class ActConfig(HttpGatewayConfig):
    """Robots that ask by POST /act in JSON (OpenVLA's and MolmoAct's servers)."""

    title: ClassVar[str] = "/act gateway"

    port: Port = 8202
    """Port to listen on; 0 for a free one."""
    dt_ms: NotNegative = 0.0
    """Milliseconds between two actions of a chunk, sent where the model's answer has no dt_ms; 0: not stated."""


class KServeConfig(HttpGatewayConfig):
    """Clients of the Open Inference Protocol over HTTP (KServe's v2): tritonclient, perf_analyzer."""

    title: ClassVar[str] = "KServe gateway"

    port: Port = 8203
    """Port to listen on; 0 for a free one."""
    model: str = Field(default=ANY_MODEL, min_length=1)
    """The model that its clients may ask; * for every model."""

    def purpose(self) -> str:
        """Returns the title and the models."""
        return f"{self.title}, {'every model' if self.model == ANY_MODEL else f'model {self.model}'}"


class KServeGrpcConfig(KServeConfig):
    """Clients of the Open Inference Protocol over gRPC (inference.GRPCInferenceService)."""

    title: ClassVar[str] = "KServe gateway over gRPC"
    scheme: ClassVar[str] = "grpc"
    package: ClassVar[str] = "grpc"
    extra: ClassVar[str] = "kserve"

    port: Port = 8204
    """Port to listen on; 0 for a free one."""
