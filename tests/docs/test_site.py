"""The docs site is built without a warning, loads nothing from elsewhere, and its search finds every field."""

from __future__ import annotations

import html
import json
import re
import subprocess
import sys
from pathlib import Path

from inferential.config.fields import leaves

ROOT = Path(__file__).parents[2]


def test_the_site_is_built_strictly(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(tmp_path)]
    built = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=110, check=False)
    assert built.returncode == 0, built.stdout + built.stderr
    home = (tmp_path / "index.html").read_text(encoding="utf-8")
    loaded = re.findall(r"<(?:script|link|img)[^>]+(?:src|href)=\"(https?://[^\"]+)", home)
    assert [url for url in loaded if not url.startswith("https://www.mkdocs.org")] == []
    reference = (tmp_path / "reference" / "client" / "index.html").read_text(encoding="utf-8")
    assert "latency_budget_ms" in reference
    found = json.loads((tmp_path / "search" / "search_index.json").read_text(encoding="utf-8"))["docs"]
    fields = {one["title"]: one["text"] for one in found if one["location"].startswith("configuration/#")}
    for field in leaves():
        title = f"<code>{html.escape(field.path.replace('[0]', '[]'))}</code>"
        assert title in fields
        if re.search(r"timeout|_ttl_|ready_wait", title):
            assert "timeout" in (title + fields[title]).lower()
