"""The table of alerts: when the server calls someone, and where."""

from __future__ import annotations

from typing import Annotated, Literal
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field, SecretStr

from inferential.config.section import NotNegative, Positive
from inferential.config.services import ServiceAddress, ServiceConfig
from inferential.config.versions import Share

AlertName = Literal["late", "model", "robot", "refusals"]
_ALL: tuple[AlertName, ...] = ("late", "model", "robot", "refusals")


def _url(value: SecretStr) -> SecretStr:
    parts = urlsplit(value.get_secret_value())
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError("expected a URL as http://HOST:PORT/PATH")
    return value


class AlertsConfig(ServiceConfig):
    """Changes that are posted to a webhook."""

    webhook: Annotated[SecretStr, AfterValidator(_url)]
    """The URL that each change is posted to, as JSON. Who knows it may often post there, so it is not shown."""
    headers: dict[str, SecretStr] = Field(default_factory=dict)
    """Sent with every post, as a key that the receiver asks for."""
    conditions: list[AlertName] = Field(default_factory=lambda: list(_ALL))
    """What is watched: late (the fleet is), model (one hangs or fails), robot (one is gone), refusals."""
    late_share: Share = 0.1
    """The fleet is late where so many of the answers due within a minute were late or did not come."""
    refused_share: Share = 0.05
    """Refusals are an alert where so many of the requests that ended within a minute were refused."""
    hold_s: NotNegative = 10.0
    """How long a condition must hold, or be over, before that is posted."""
    timeout_s: Positive = 5.0
    """How long a post may take; one that fails is tried again, at growing intervals, for a quarter of an hour."""

    def address(self) -> ServiceAddress:
        """Returns the host of the webhook."""
        parts = urlsplit(self.webhook.get_secret_value())
        return ServiceAddress(f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}", "alerts, posted to")
