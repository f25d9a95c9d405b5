"""What a scrape gets."""

from __future__ import annotations

from inferential.telemetry.prometheus import Exporter, text_of


def scraped(exporter: Exporter) -> str:
    """Returns the page of a scrape, as the server puts it together, made in one go."""
    return b"".join(map(text_of, exporter.families())).decode()
