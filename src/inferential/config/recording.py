"""The table of what is recorded."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import AfterValidator, Field

from inferential.config.section import Effect, Expected, Positive
from inferential.config.services import ServiceAddress, ServiceConfig


def _images(text: str) -> str:
    kind, colon, quality = text.partition(":")
    is_quality = quality.isascii() and quality.isdecimal() and 1 <= int(quality) <= 100
    if (kind in ("keep", "none") and not colon) or (kind == "jpeg" and is_quality):
        return text
    raise ValueError(f"expected keep, none or jpeg:QUALITY with 1 to 100, got {text!r}")


class RecordingConfig(ServiceConfig):
    """What robots send and are answered, recorded as MCAP files."""

    package: ClassVar[str] = "mcap"
    extra: ClassVar[str] = "record"

    path: Annotated[str, Field(min_length=1), Effect.ON_RESTART] = "recordings"
    """Folder of the files; it is made where it does not exist."""
    clients: list[str] = Field(default_factory=list)
    """Ids of the robots that are recorded; empty: all."""
    models: list[str] = Field(default_factory=list)
    """Ids of the models whose requests are recorded; empty: all."""
    images: Annotated[str, AfterValidator(_images), Expected("keep, none or jpeg:QUALITY")] = "keep"
    """How images are recorded: keep (as they came, raw ones as PNG), jpeg:QUALITY (1 to 100) or none."""
    split_mb: Positive = 1024.0
    """A file that has grown beyond so many megabytes, or half of `keep_gb`, is finished, and a new one begun."""
    keep_gb: Positive = 50.0
    """The oldest recordings of the folder are deleted before all take more gigabytes."""
    only: Literal["all", "late", "failed"] = "all"
    """Which requests are recorded: all, those whose answer was sent or used too late, or those that got none."""
    queue_mb: Positive = 64.0
    """Megabytes that may wait to be written; beyond it requests are not recorded, and counted (recording_drops)."""

    def address(self) -> ServiceAddress:
        """Returns the folder."""
        return ServiceAddress(self.path, "recordings (MCAP)")
