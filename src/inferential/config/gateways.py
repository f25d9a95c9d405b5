"""The tables of the gateways: one of each protocol, and `gateways`, which has them all."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Self

from pydantic import ConfigDict, Field, model_validator
from pydantic.functional_validators import ModelWrapValidatorHandler  # which pydantic 2.7 does not offer at its top

from inferential.config.section import Count, NotNegative, Port, Positive, Section
from inferential.config.security import FilePath
from inferential.config.services import GatewayConfig, with_installed_gateways
from inferential.config.tokens import RobotKeys, RobotTokens

ANY_MODEL = "*"
"""In place of a model: every model."""


class OpenPiConfig(GatewayConfig):
    """Robots that speak openpi's websocket policy protocol."""

    title: ClassVar[str] = "openpi gateway"
    scheme: ClassVar[str] = "ws"
    token_field: ClassVar[str] = "api_keys"

    port: Port = 8000
    """Port to listen on; 0 for a free one."""
    api_keys: RobotKeys = Field(default_factory=list)
    """Keys that are accepted in the header Authorization: Api-Key KEY, or their hashes as sha256:HEX; none: every robot
    is served. A map {id, key} is the key of one robot, which has that id and its rights."""
    tls_certificate: FilePath | None = None
    """PEM file of the certificate, with those between it and its root; with it robots connect to wss://."""
    tls_key: FilePath | None = None
    """PEM file of the certificate's key; None: it is in the same file."""
    metadata: dict[str, Any] = Field(default_factory=dict)
    """Sent to each robot when it connects, over the metadata of the model itself."""
    timeout_ms: Positive = 120_000.0
    """How long a robot waits for an answer, a model's slow first call included; then its connection ends."""


class Gr00tConfig(GatewayConfig):
    """Robots that speak GR00T's ZeroMQ policy protocol."""

    title: ClassVar[str] = "GR00T gateway"
    every_interface: ClassVar[str] = "*"
    token_field: ClassVar[str] = "api_token"

    host: str = "127.0.0.1"
    """Address to listen on; * for every interface."""
    port: Port = 5556
    """Port to listen on; 0 for a free one."""
    api_token: RobotTokens = None
    """Token that each request must carry as api_token, or its hash as sha256:HEX, or a list of tokens; none: every
    robot is served. A map {id, key} is the token of one robot, which has that id and its rights."""
    modality_config: dict[str, Any] = Field(default_factory=dict)
    """Answer of the endpoint get_modality_config; each modality config in it gets the markers of N1.6 and N1.7."""
    timeout_ms: Positive = 120_000.0
    """How long an answer may take, a model's slow first call included; then the robot gets an error."""


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
    token_field: ClassVar[str] = "token"

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
    max_request_bytes: Count = 64 * 1024 * 1024
    """Size of a request; four, and one of each stream, may arrive at the same time."""


class GatewaysConfig(Section):
    """Other clients' protocols; each is off unless its section is present.

    Gateways of installed packages have sections too, by the names of their entry points (`config.extensions`).
    """

    model_config: ClassVar[ConfigDict] = ConfigDict(extra="allow")

    openpi: OpenPiConfig | None = None
    """Robots that speak openpi's websocket policy protocol."""
    gr00t: Gr00tConfig | None = None
    """Robots that speak GR00T's ZeroMQ policy protocol."""
    lerobot: LeRobotConfig | None = None
    """Robots that run LeRobot's `RobotClient`."""
    act: ActConfig | None = None
    """Robots that ask by POST /act in JSON."""
    kserve: KServeConfig | None = None
    """Clients of the Open Inference Protocol over HTTP, as tritonclient."""
    kserve_grpc: KServeGrpcConfig | None = None
    """Clients of the Open Inference Protocol over gRPC."""

    @model_validator(mode="wrap")
    @classmethod
    def _check_installed(cls, value: Any, handler: ModelWrapValidatorHandler[Self]) -> Self:
        return with_installed_gateways(cls, value, handler)
