"""Declares the sections of what runs beside a server: live page, telemetry, and the base of gateways' sections.

Such a section says where its service will be reached, so that `check`, `serve` and several servers handle all alike.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, TypeVar

from pydantic import Field, SecretStr, ValidationError
from pydantic_core import InitErrorDetails

from inferential.config.extensions import GATEWAYS, ExtensionError, load_extension
from inferential.config.section import HttpUrl, Port, Positive, Secret, Section, details
from inferential.config.security import FilePath


@dataclass(frozen=True, slots=True)
class ServiceAddress:
    """Where a service will be reached, or what it will connect to.

    Attributes:
        url: the address; a port that the system chooses is "a free port".
        purpose: what is there, for people.
        bind: the host and port that it will listen on; None where it does not listen.
    """

    url: str
    purpose: str
    bind: tuple[str, int] | None = None


class ServiceConfig(Section):
    """The section of one service; the service runs where the section is present.

    Attributes:
        package: a package that the service needs and that not every server has; empty if none.
        extra: which extra of Inferential brings that package.
        on_every_server: whether each of several servers has one of its own.
    """

    package: ClassVar[str] = ""
    extra: ClassVar[str] = "edge"
    on_every_server: ClassVar[bool] = True

    def address(self) -> ServiceAddress:
        """Returns where the service will be reached, as far as the configuration says."""
        raise NotImplementedError

    def protection(self) -> str:
        """Returns what to do so that it lets in no stranger; empty if it lets in none."""
        return ""


class ListenerConfig(ServiceConfig):
    """The section of a service that listens on a TCP port.

    Attributes:
        scheme: what its address begins with.
        every_interface: the `host` that means every interface.
        token_field: the field with what its clients must show; empty if their protocol has no such thing.
    """

    scheme: ClassVar[str] = "tcp"
    every_interface: ClassVar[str] = "0.0.0.0"
    token_field: ClassVar[str] = ""

    host: str = "127.0.0.1"
    """Address to listen on; 0.0.0.0 for every interface."""
    port: Port = 0
    """Port to listen on; 0 for a free one."""

    def purpose(self) -> str:
        """Returns what is at its address, for people."""
        raise NotImplementedError

    def address(self) -> ServiceAddress:
        """Returns where it will listen."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        url = f"{self.scheme}://{host}:{self.port or 'a free port'}"
        return ServiceAddress(url, self.purpose(), (self.host, self.port))

    def protection(self) -> str:
        """Returns what to do so that it lets in no stranger; empty where it has a token, or TLS."""
        if not self.token_field:
            return "its protocol has no key: serve its robots by a server of their own"
        protected = getattr(self, self.token_field) or getattr(self, "tls_certificate", None) is not None
        return "" if protected else f"set {self.token_field}"


class GatewayConfig(ListenerConfig):
    """The section of a gateway, `gateways.NAME`: address and model.

    Attributes:
        title: what people read, as "openpi gateway".
    """

    title: ClassVar[str] = "gateway"
    on_every_server: ClassVar[bool] = False  # its robots know one address

    model: str = Field(min_length=1)
    """The model that its robots ask."""

    def purpose(self) -> str:
        """Returns the title and the model."""
        return f"{self.title}, model {self.model}"


class HttpConfig(ListenerConfig):
    """The live page, metrics and health over HTTP."""

    scheme: ClassVar[str] = "http"
    token_field: ClassVar[str] = "token"

    host: str = "127.0.0.1"
    """Address to listen on; 0.0.0.0 for every interface, which wants a token."""
    port: Port = 8080
    """Port to listen on; 0 for a free one."""
    token: Secret | None = None
    """Required from readers as Authorization: Bearer TOKEN, or once as ?token=TOKEN; in its place may stand its hash as
    sha256:HEX. None: no token is needed."""
    tls_certificate: FilePath | None = None
    """PEM file of the certificate, with those between it and its root; with it the page is https://."""
    tls_key: FilePath | None = None
    """PEM file of the certificate's key; None: it is in the same file."""

    def purpose(self) -> str:
        """Returns its pages, and whether they need a token."""
        return f"live page, /metrics, /healthz, /readyz ({'no token' if self.token is None else 'token required'})"


class OtlpConfig(ServiceConfig):
    """Traces and metrics to an OpenTelemetry collector."""

    package: ClassVar[str] = "opentelemetry.sdk"
    extra: ClassVar[str] = "otel"

    endpoint: HttpUrl = "http://localhost:4318"
    """Where it takes OTLP over HTTP; /v1/traces and /v1/metrics are added."""
    headers: dict[str, SecretStr] = Field(default_factory=dict)
    """Sent with every export, as a key that the collector asks for."""
    service_name: str = Field(default="inferential", min_length=1)
    """The name of this server in traces."""
    traces: bool = True
    """Whether traces are exported."""
    metrics: bool = True
    """Whether metrics are exported."""
    sample_ratio: float = Field(default=1.0, ge=0, le=1)
    """Share of requests that are traced, of robots that do not trace themselves."""
    metrics_interval_s: Positive = 10.0
    """Seconds between exports of metrics."""

    def address(self) -> ServiceAddress:
        """Returns the collector's address."""
        return ServiceAddress(self.endpoint, "OpenTelemetry collector, connected to")


def services(section: Section, key: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], ServiceConfig]]:
    """Yields the place and the section of each service that a configuration turns on, in the order of the schema."""
    for name, value in section:
        if isinstance(value, ServiceConfig):
            yield (*key, name), value
        elif isinstance(value, Section):
            yield from services(value, (*key, name))


def gateway_section(name: str) -> type[GatewayConfig]:
    """Returns the section that an installed gateway declares.

    Raises:
        KeyError: no installed package has a gateway of that name.
        ExtensionError: it cannot be imported, or declares no section.
    """
    found = load_extension(GATEWAYS, name)
    section = getattr(found, "Config", None)
    if not (isinstance(section, type) and issubclass(section, GatewayConfig)):
        raise ExtensionError(
            f"{found!r}, entry point {name!r} of {GATEWAYS}: expected a class whose attribute Config is a subclass of "
            f"inferential.config.services.GatewayConfig, got {section!r}"
        )
    return section


_SectionT = TypeVar("_SectionT", bound=Section)


def with_installed_gateways(section: type[_SectionT], value: Any, validate: Callable[[Any], _SectionT]) -> _SectionT:
    """Returns the section of all gateways, those of other packages checked by the sections that these declare.

    Args:
        section: its type.
        value: what is to be validated.
        validate: validates the fields that the type has.

    Raises:
        ValidationError: of pydantic, with every problem; a name that no gateway has is one.
    """
    made: _SectionT | None = None
    problems: list[InitErrorDetails] = []
    try:
        made = validate(value)
    except ValidationError as error:
        problems += details(error)
    given = made.model_extra if made is not None else value if isinstance(value, Mapping) else None
    checked: dict[str, GatewayConfig] = {}
    for name, one in (given or {}).items():
        if name in section.model_fields:
            continue
        try:
            checked[name] = gateway_section(name).model_validate(one, strict=True)
        except KeyError:
            problems.append({"type": "extra_forbidden", "loc": (name,), "input": one})
        except ExtensionError as error:
            problems.append({"type": "value_error", "loc": (name,), "input": one, "ctx": {"error": error}})
        except ValidationError as error:
            problems += details(error, name)
    if made is None or problems:
        raise ValidationError.from_exception_data("gateways", problems)
    if made.__pydantic_extra__ is not None:
        made.__pydantic_extra__.update(checked)
    return made
