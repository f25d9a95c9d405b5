"""The tables of what a server listens on: gateways, the page, and the keys of the robots' address."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from inferential.config.gateways import ActConfig, LeRobotConfig
from inferential.config.section import Port, Positive, Secret, Section

Path = Annotated[str, Field(min_length=1)]


class OpenPiConfig(Section):
    """Robots that speak openpi's websocket policy protocol."""

    model: str = Field(min_length=1)
    """The model that they ask."""
    host: str = "127.0.0.1"
    """Address to listen on; 0.0.0.0 for every interface."""
    port: Port = 8000
    """Port to listen on; 0 for a free one."""
    api_keys: list[Secret] = Field(default_factory=list)
    """Keys that are accepted in the header Authorization: Api-Key KEY, or their hashes as sha256:HEX; none: every robot
    is served."""
    tls_certificate: Path | None = None
    """PEM file of the certificate, with those between it and its root; with it robots connect to wss://."""
    tls_key: Path | None = None
    """PEM file of the certificate's key; None: it is in the same file."""
    metadata: dict[str, Any] = Field(default_factory=dict)
    """Sent to each robot when it connects, over the metadata of the model itself."""
    timeout_ms: Positive = 120_000.0
    """How long a robot waits for an answer, a model's slow first call included; then its connection ends."""


class Gr00tConfig(Section):
    """Robots that speak GR00T's ZeroMQ policy protocol."""

    model: str = Field(min_length=1)
    """The model that they ask."""
    host: str = "127.0.0.1"
    """Address to listen on; * for every interface."""
    port: Port = 5556
    """Port to listen on; 0 for a free one."""
    api_token: Secret | None = None
    """Token that each request must carry as api_token, or its hash as sha256:HEX; none: every robot is served."""
    modality_config: dict[str, Any] = Field(default_factory=dict)
    """Answer of the endpoint get_modality_config; each modality config in it gets the markers of N1.6 and N1.7."""
    timeout_ms: Positive = 120_000.0
    """How long an answer may take, a model's slow first call included; then the robot gets an error."""


class GatewaysConfig(Section):
    """Other clients' protocols; each is off unless its section is present."""

    openpi: OpenPiConfig | None = None
    """Robots that speak openpi's websocket policy protocol."""
    gr00t: Gr00tConfig | None = None
    """Robots that speak GR00T's ZeroMQ policy protocol."""
    lerobot: LeRobotConfig | None = None
    """Robots that run LeRobot's `RobotClient`."""
    act: ActConfig | None = None
    """Robots that ask by POST /act in JSON."""


class SecurityConfig(Section):
    """Keys of server and robots, on the address that robots connect to."""

    mode: Literal["off", "optional", "required"] = "off"
    """Whether robots prove who they are by keys, and all is encrypted: no (off), those that have keys (optional), or
    every robot (required)."""
    server_key: Annotated[str, Field(min_length=1)] | None = None
    """The server's NAME.key_secret file; `inferential keys new server` makes it."""
    clients: Annotated[str, Field(min_length=1)] | None = None
    """Folder with NAME.key of each robot, whose id is NAME; read again when it changes."""


class HttpConfig(Section):
    """The live page, metrics and health over HTTP."""

    port: Port = 8080
    """Port to listen on; 0 for a free one."""
    tls_certificate: Path | None = None
    """PEM file of the certificate, with those between it and its root; with it the page is https://."""
    tls_key: Path | None = None
    """PEM file of the certificate's key; None: it is in the same file."""
    host: str = "127.0.0.1"
    """Address to listen on; 0.0.0.0 for every interface, which wants a token."""
    token: Secret | None = None
    """Required from readers as Authorization: Bearer TOKEN, or once as ?token=TOKEN; in its place may stand its hash as
    sha256:HEX. None: no token is needed."""
