"""The live page in a real browser, before a real server with real clients."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import threading
from collections.abc import Iterator, Mapping
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any, ClassVar

import numpy as np
import pytest
from tests.web.browser import Browser, NoBrowser

from inferential import Connection, InferenceError, LocalDispatcher, Server
from inferential.cli.targets import model_later
from inferential.config import InferentialConfig
from inferential.config.services import HttpConfig
from inferential.replica.spec import ModelThread
from inferential.web import HttpServer

pytestmark = [pytest.mark.slow]
TIMEOUT_S = 3.0  # until a silent robot is gone; a busy browser is to see it overdue before


class Policy:
    max_batch_size = 8
    metadata: ClassVar[dict[str, Any]] = {
        "inputs": [{"name": "state", "dtype": "float32", "shape": [7]}, {"name": "task", "dtype": "string"}]
    }

    def infer_batch(self, observations: list[dict[str, Any]]) -> list[Any]:
        return [{"actions": np.zeros((10, 7), np.float32)} for _ in observations]


class Site:
    """A server with a page, in a thread of its own."""

    def __init__(
        self,
        bind: str = "tcp://127.0.0.1:0",
        models: dict[str, Any] | None = None,
        known: Mapping[str, Any] | None = None,
        port: int = 0,
    ) -> None:
        self._bind, self._port = bind, port
        self._known = known
        self._models = models or ({} if known else {"arm": Policy()})
        self._ready = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._main()))
        self._thread.start()
        assert self._ready.wait(60)

    async def _main(self) -> None:
        config = InferentialConfig(
            server={"drain_timeout_s": 0.0},
            response_tracking={"disconnect_timeout_s": TIMEOUT_S},
            models={"known": self._known or {}},
        )
        self._loop, self._stop = asyncio.get_running_loop(), asyncio.Event()
        served = Server(self._bind, config=config, dispatcher=LocalDispatcher(self._models))
        if self._known:
            served.manage_models(model_later)
        async with (
            served as server,
            HttpServer(server, HttpConfig(port=self._port)) as page,
        ):
            self.address, self.url = server.address, page.address
            self._ready.set()
            await self._stop.wait()

    def close(self) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(60)


class Robots:
    """Some robots at 20 Hz in one thread, until they are stopped."""

    def __init__(self, address: str, count: int, rate_hz: float = 20.0) -> None:
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._drive, args=(address, count, 1 / rate_hz))
        self._thread.start()

    def _drive(self, address: str, count: int, period_s: float) -> None:
        connections = [Connection(address, f"robot-{number}", "arm") for number in range(count)]
        models = [connection.model("arm", control_rate_hz=50) for connection in connections]
        while not self._stop.wait(period_s):
            for model in models:
                model.observe(steps_remaining=5, state=np.zeros(7, np.float32))
                with contextlib.suppress(InferenceError):  # a model that fails
                    model.get_result(0)
        for connection in connections:
            connection.close()

    def stop(self) -> None:
        self._stop.set()
        self._thread.join(60)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    try:
        browser = Browser()
    except NoBrowser as error:
        pytest.skip(str(error))
    with browser:
        yield browser


@pytest.fixture
def site() -> Iterator[Site]:
    site = Site()
    yield site
    site.close()


@pytest.fixture
def robots(site: Site) -> Iterator[Robots]:
    robots = Robots(site.address, 3)
    yield robots
    robots.stop()


def test_it_shows_versions_with_their_shares_and_draws_their_calls(browser: Browser) -> None:
    version = {"target": "tests.web.test_page:Policy"}
    known = {
        "arm": {
            "run": "thread",
            "versions": {"a": version, "b": version, "c": version},
            "active": "a",
            "rollout": {"b": {"share": 0.5}},
            "shadow": "c",
        }
    }
    site = Site(known=known)
    robots = Robots(site.address, 4)
    try:
        browser.open(site.url)
        texts = "(row) => [...row.cells].map((cell) => cell.textContent)"
        rows = f"[...document.querySelectorAll('.versions tbody tr')].map({texts})"
        browser.wait(f"{rows}.length === 3 && {rows}.every((row) => row[2] === 'ready')")
        browser.wait(f"{rows}.slice(0, 2).every((row) => row[3] === '2')")
        assert browser.evaluate(f"{rows}.map((row) => row.slice(0, 2).join(' '))") == [
            "a active",
            "b rollout 50 %",
            "c shadow",
        ]
        browser.wait(f"Number({rows}[1][4]) > 5 && {rows}[2][8].startsWith('0.0, ')")
        for width in (1280, 375):
            browser.open(site.url, width=width)
            browser.wait(f"{rows}.length === 3")
            inside = "document.querySelector('.versions').getBoundingClientRect().right <= "
            assert browser.evaluate(inside + "document.querySelector('.card').getBoundingClientRect().right")
            assert browser.evaluate("document.documentElement.scrollWidth <= innerWidth")
        assert browser.problems() == []
    finally:
        robots.stop()
        site.close()


def test_the_requests_of_a_version_that_is_alone_are_not_said_to_be_none(browser: Browser) -> None:
    version = {"target": "tests.web.test_page:Policy"}
    site = Site(known={"arm": {"run": "thread", "versions": {"a": version, "b": version}, "active": "a"}})
    robots = Robots(site.address, 1)
    try:
        browser.open(site.url)
        texts = "(row) => [...row.cells].map((cell) => cell.textContent)"
        rows = f"[...document.querySelectorAll('.versions tbody tr')].map({texts})"
        browser.wait("Number(document.querySelectorAll('.card dd')[3].textContent) > 5")
        assert browser.evaluate(f"{rows}.map((row) => row.slice(4, 7).join(''))") == ["–––", "–––"]
    finally:
        robots.stop()
        site.close()


STATE_OF_0 = "[...document.querySelectorAll('#robots tr')].find((row) => row.cells[0].textContent === 'robot-0')"


def test_it_shows_the_fleet_live_and_a_robot_that_stops_as_overdue_and_then_gone(
    browser: Browser, site: Site, robots: Robots
) -> None:
    browser.open(site.url)
    browser.wait("document.querySelectorAll('#robots tr[data-state=active]').length === 3")
    browser.wait(f"Number({STATE_OF_0}.cells[8].textContent) > 5")
    before = browser.evaluate(f"Number({STATE_OF_0}.cells[8].textContent)")
    browser.wait(f"Number({STATE_OF_0}.cells[8].textContent) > {before}")
    assert browser.evaluate(f"{STATE_OF_0}.cells[2].textContent") == "arm"
    assert browser.evaluate(f"{STATE_OF_0}.cells[3].textContent") == "50"
    assert browser.evaluate("document.querySelector('#models h3').textContent") == "arm"
    table = "document.querySelector('.scroll')"
    assert browser.evaluate(f"{table}.scrollWidth <= {table}.clientWidth")
    browser.wait("document.querySelectorAll('.sizes tbody tr').length > 0")
    takes = "takes state: float32 [7], task: string of any shape"
    browser.wait(f"document.querySelector('.tensors').textContent === '{takes}'")
    robots.stop()
    # A robot that a busy machine makes irregular is never overdue by its rhythm.
    browser.wait(f"['overdue', 'gone'].includes({STATE_OF_0}.dataset.state)")
    browser.wait(f"{STATE_OF_0}.dataset.state === 'gone'")
    browser.wait("document.getElementById('announcer').textContent.includes('is gone')")
    assert browser.problems() == []


def test_what_is_open_to_the_whole_network_is_said_above_all_else(browser: Browser, site: Site) -> None:
    banner = "document.getElementById('warnings')"
    browser.open(site.url)
    browser.wait("document.getElementById('connection').dataset.state === 'live'")
    assert browser.evaluate(f"{banner}.hidden") is True
    exposed = Site("tcp://0.0.0.0:0")
    try:
        browser.open(exposed.url)
        browser.wait(f"{banner}.textContent.includes('any machine that reaches it can read every observation')")
        assert (
            browser.evaluate(f"{banner}.getBoundingClientRect().height > 0 && {banner}.getAttribute('role')") == "alert"
        )
    finally:
        exposed.close()


def test_a_row_opens_into_its_robot_and_only_that_one_is_asked_for(
    browser: Browser, site: Site, robots: Robots
) -> None:
    browser.open(site.url)
    browser.wait(f"Number({STATE_OF_0}?.cells[8].textContent) > 5")
    browser.evaluate(f"{STATE_OF_0}.querySelector('button').click()")
    browser.wait("document.querySelectorAll('.answers tbody tr').length > 5")
    assert browser.evaluate(f"{STATE_OF_0}.querySelector('button').getAttribute('aria-expanded')") == "true"
    assert browser.evaluate("document.querySelector('.sentence').textContent").startswith("robot-0: ")
    assert browser.evaluate("document.querySelectorAll('.ages polygon').length") == 6
    widths = "[...document.querySelector('.waterfall').children].map((part) => parseFloat(part.style.width) || 0)"
    assert 0 < sum(browser.evaluate(widths)[:6]) <= 100.1
    boxes = (
        "[...document.querySelector('.waterfall').querySelectorAll('i')].map((part) => part.getBoundingClientRect())"
    )
    tops = browser.evaluate(f"{boxes}.filter((box) => box.width > 0 && box.height > 5).map((box) => box.top)")
    assert len(set(tops)) == 1  # the parts stand beside one another
    browser.evaluate("[...document.querySelectorAll('.opens')].find((one) => one.textContent === 'robot-1').click()")
    browser.wait("document.querySelector('.sentence')?.textContent.startsWith('robot-1: ')")
    assert browser.evaluate("document.querySelectorAll('tr.details').length") == 1
    robots.stop()
    browser.wait("document.querySelector('.sentence').textContent.includes('robot-1 is gone')")
    browser.evaluate("document.querySelector('.opens[aria-expanded=true]').click()")
    assert browser.evaluate("document.querySelectorAll('tr.details').length") == 0
    loaded = browser.evaluate("performance.getEntriesByType('resource').map((one) => one.name)")
    assert {one.rpartition("/")[2] for one in loaded if "/api/robots/" in one} == {"robot-0", "robot-1"}
    assert browser.problems() == []


class Failing:
    def infer(self, observation: dict[str, Any]) -> Any:
        raise RuntimeError("the gripper has no policy")


class Hanging:
    def __init__(self) -> None:
        self.released = threading.Event()

    def infer(self, observation: dict[str, Any]) -> Any:
        self.released.wait(60)
        return np.zeros(7, np.float32)


def test_robots_that_get_no_answers_and_their_models_are_red(browser: Browser) -> None:
    hanging = Hanging()
    site = Site(models={"arm": Failing(), "slow": ModelThread(hanging, call_timeout_ms=200)})
    robots = Robots(site.address, 2)
    try:
        with Connection(site.address, "slow-robot") as slow, pytest.raises(InferenceError):
            slow.model("slow").infer(60_000, state=np.zeros(7, np.float32))
        browser.open(site.url)
        browser.wait("document.querySelectorAll('#robots tr[data-state=unanswered]').length >= 2")
        facts = "[...document.querySelectorAll('.card dl div')].map((one) => one.textContent)"
        assert "answers0" in browser.evaluate(facts)
        browser.wait("document.querySelector('.card').dataset.state === 'down'")
        assert browser.evaluate("document.querySelector('.condition').textContent").startswith("failing since ")
        card = browser.evaluate("document.querySelector('.card').textContent")
        assert card.count("the gripper has no policy") == 1
        assert re.search(r"\d+ % fail$", card)
        browser.wait("document.querySelectorAll('.card')[1].dataset.state === 'down'")
        hung = browser.evaluate("document.querySelectorAll('.condition')[1].textContent")
        assert re.match("hung since .*: 1 call.* took longer than call_timeout_ms", hung)
        red = "getComputedStyle(document.querySelectorAll('.condition')[{}]).color"
        assert browser.evaluate(red.format(0)) == browser.evaluate(red.format(1))
        browser.evaluate("document.querySelector('.opens').click()")
        browser.wait("document.querySelectorAll('.errors tbody tr').length > 0")
        assert "gripper" in browser.evaluate("document.querySelector('.errors').textContent")
        said = browser.evaluate("document.querySelector('.sentence').textContent")
        assert re.fullmatch(r"robot-0 gets no answer, for \d+ s", said)  # and once
        assert browser.evaluate("document.querySelector('.ages').getClientRects().length") == 0  # no ages to draw
        assert browser.axe() == []
        assert browser.evaluate(CONTRAST) == []
    finally:
        hanging.released.set()
        robots.stop()
        site.close()


@pytest.mark.parametrize("motion", ["no-preference", "reduce"])
def test_batches_are_drawn_on_the_timeline(browser: Browser, site: Site, robots: Robots, motion: str) -> None:
    browser.open(site.url, motion=motion)
    browser.wait("import('/timeline.js').then((timeline) => timeline.batches.size > 3)")
    painted = """(() => {
      const canvas = document.getElementById('timeline');
      const data = canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height).data;
      const wanted = getComputedStyle(document.documentElement).getPropertyValue('--bar').trim();
      const [r, g, b] = [1, 3, 5].map((at) => parseInt(wanted.slice(at, at + 2), 16));
      for (let at = 0; at < data.length; at += 4)
        if (Math.abs(data[at] - r) + Math.abs(data[at + 1] - g) + Math.abs(data[at + 2] - b) < 12) return true;
      return false;
    })()"""
    browser.wait(painted)


CONTRAST = """(() => {
  const channel = (value) => value <= 0.03928 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4;
  const rgb = (text) => text.match(/[\\d.]+/g).map(Number);
  const luminance = ([r, g, b]) => 0.2126 * channel(r / 255) + 0.7152 * channel(g / 255) + 0.0722 * channel(b / 255);
  const ground = (element) => {
    for (let at = element; at; at = at.parentElement) {
      const colour = rgb(getComputedStyle(at).backgroundColor);
      if (colour.length === 3 || colour[3] > 0) return colour;
    }
    return [255, 255, 255];
  };
  const poor = [];
  for (const element of document.querySelectorAll('body *')) {
    const own = [...element.childNodes].some((node) => node.nodeType === 3 && node.textContent.trim());
    if (!own || !element.getClientRects().length || element.closest('.visually-hidden, .skip')) continue;
    const [a, b] = [luminance(rgb(getComputedStyle(element).color)), luminance(ground(element))];
    const ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
    if (ratio < 4.5) poor.push(`${element.tagName} ${element.textContent.trim().slice(0, 20)}: ${ratio.toFixed(2)}`);
  }
  return poor;
})()"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_all_text_can_be_read_in_both_schemes(browser: Browser, site: Site, robots: Robots, scheme: str) -> None:
    browser.open(site.url, scheme=scheme)
    browser.wait("document.querySelectorAll('.sizes tbody tr').length > 0")
    assert browser.evaluate(CONTRAST) == []
    robots.stop()
    # A robot that a busy machine makes irregular is never overdue by its rhythm.
    browser.wait(f"['overdue', 'gone'].includes({STATE_OF_0}.dataset.state)")
    assert browser.evaluate(CONTRAST) == []
    browser.wait(f"{STATE_OF_0}.dataset.state === 'gone'")
    assert browser.evaluate(CONTRAST) == []


@pytest.mark.parametrize(("scheme", "width"), [("light", 1280), ("dark", 375)])
def test_axe_finds_nothing(browser: Browser, site: Site, robots: Robots, scheme: str, width: int) -> None:
    browser.open(site.url, scheme=scheme, width=width)
    browser.wait("document.querySelectorAll('.sizes tbody tr').length > 0")
    assert browser.axe() == []
    browser.evaluate("document.querySelector('.opens').click()")
    browser.wait("document.querySelectorAll('.answers tbody tr').length > 0")
    assert browser.axe() == []


def test_it_is_usable_with_the_keyboard_alone(browser: Browser, site: Site, robots: Robots) -> None:
    browser.open(site.url)
    browser.wait("document.querySelectorAll('#robots tr').length === 3")
    browser.do("press", key="Tab")
    assert browser.evaluate("document.activeElement.className") == "skip"
    browser.do("press", key="Tab")
    browser.do("press", key="Enter")
    assert browser.evaluate("document.documentElement.dataset.theme") == "dark"
    browser.do("press", key="Tab")
    browser.do("type", text="robot-1")
    browser.wait("document.querySelectorAll('#robots tr:not([hidden])').length === 1")
    browser.do("press", key="Tab")  # out of the field, into the table that scrolls, to its first heading
    browser.do("press", key="Tab")
    assert browser.evaluate("document.activeElement.textContent") == "Robot"
    browser.do("press", key="Space")
    assert browser.evaluate("document.activeElement.parentElement.getAttribute('aria-sort')") == "descending"
    outline = "getComputedStyle(document.activeElement).outlineStyle"
    assert browser.evaluate(outline) == "solid"


def test_on_a_phone_only_the_table_scrolls_sideways(browser: Browser, site: Site, robots: Robots) -> None:
    browser.open(site.url, width=375, height=700)
    browser.wait("document.querySelectorAll('#robots tr').length === 3")
    assert browser.evaluate("document.documentElement.scrollWidth") <= 375


def test_200_robots_are_updated_in_place(browser: Browser, site: Site) -> None:
    robots = Robots(site.address, 200, rate_hz=2.0)
    try:
        browser.open(site.url)
        browser.wait("document.querySelectorAll('#robots tr').length === 200")
        browser.evaluate("window.kept = [...document.querySelectorAll('#robots tr')]; true")
        before = browser.evaluate("kept.reduce((sum, row) => sum + Number(row.cells[8].textContent), 0)")
        browser.wait(f"kept.reduce((sum, row) => sum + Number(row.cells[8].textContent), 0) > {before} + 100")
        assert browser.evaluate("kept.every((row) => row.isConnected)")
        assert browser.problems() == []
    finally:
        robots.stop()


def test_it_says_so_when_the_server_is_gone(browser: Browser) -> None:
    site = Site()
    browser.open(site.url)
    browser.wait("document.getElementById('connection').dataset.state === 'live'")
    site.close()
    browser.wait("document.getElementById('connection').dataset.state === 'lost'")


CONNECTION = "document.getElementById('connection').dataset.state"


def test_it_goes_on_when_the_server_is_back_and_shows_nothing_of_the_one_before(browser: Browser) -> None:
    site = Site()
    robots = Robots(site.address, 3)
    try:
        browser.open(site.url)
        browser.wait("import('/timeline.js').then((timeline) => timeline.batches.size > 20)")
    finally:
        robots.stop()
        site.close()
    browser.wait(f"{CONNECTION} === 'lost'")
    again = Site(port=int(site.url.rpartition(":")[2]))
    try:
        browser.wait(f"{CONNECTION} === 'live'")
        browser.wait("document.querySelectorAll('#robots tr').length === 0")
        assert browser.evaluate("import('/timeline.js').then((timeline) => timeline.batches.size)") == 0
        assert all("ERR_" in one or "failed" in one for one in browser.problems())
    finally:
        again.close()


def test_it_tries_again_where_something_else_answers_while_the_server_is_away(browser: Browser) -> None:
    site = Site()
    port = int(site.url.rpartition(":")[2])
    browser.open(site.url)
    browser.wait(f"{CONNECTION} === 'live'")
    site.close()

    class Proxy(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.set()
            self.send_error(502)

        def log_message(self, *args: Any) -> None:
            pass

    asked = threading.Event()
    proxy = HTTPServer(("127.0.0.1", port), Proxy)
    thread = threading.Thread(target=proxy.serve_forever)
    thread.start()
    assert asked.wait(60)
    proxy.shutdown()
    thread.join()
    proxy.server_close()
    browser.wait(f"{CONNECTION} === 'lost'")
    again = Site(port=port)
    try:
        browser.wait(f"{CONNECTION} === 'live'")
    finally:
        again.close()


def test_a_page_that_is_hidden_for_long_leaves_and_comes_back(browser: Browser, site: Site) -> None:
    browser.open(site.url)
    browser.wait(f"{CONNECTION} === 'live'")
    hide = "Object.defineProperty(document, 'hidden', { configurable: true, get: () => %s })"
    at_once = "const later = setTimeout; window.setTimeout = (call) => later(call, 0);"
    tell = "document.dispatchEvent(new Event('visibilitychange')); true"
    browser.evaluate(f"{{ {at_once} {hide % 'true'}; {tell} }}")
    browser.wait(f"{CONNECTION} === 'connecting'")
    browser.evaluate(f"{hide % 'false'}; {tell}")
    browser.wait(f"{CONNECTION} === 'live'")
    assert all("api/stream failed" in one for one in browser.problems())  # as the page left


def test_what_models_take_is_asked_for_when_one_becomes_another_and_not_with_each_event(
    browser: Browser, site: Site, robots: Robots
) -> None:
    browser.open(site.url)
    for _ in range(6):
        before = browser.evaluate("document.querySelector('#models')?.textContent ?? ''")
        browser.wait(f"document.querySelector('#models').textContent !== {json.dumps(before)}")
    loaded = browser.evaluate("performance.getEntriesByType('resource').map((one) => one.name)")
    assert sum(one.endswith("/api/models") for one in loaded) == 1


def test_of_very_many_robots_the_first_are_shown_and_the_others_when_they_are_asked_for(
    browser: Browser, site: Site
) -> None:
    """To lay out a thousand rows takes half a second."""
    robots = Robots(site.address, 203, rate_hz=1.0)
    names = "[...document.querySelectorAll('#robots .opens')].map((one) => one.textContent)"
    try:
        browser.open(site.url)
        browser.wait("document.getElementById('shown').textContent === 'The first 200 of 203 are shown.'")
        assert browser.evaluate(names) == [f"robot-{number}" for number in range(200)]
        browser.evaluate("document.querySelector('#columns button').click()")  # the last first
        browser.evaluate("document.querySelector('.opens').click()")
        browser.wait("document.querySelector('.sentence')?.textContent.startsWith('robot-202: ')")
        browser.evaluate("document.querySelector('#columns button').click()")
        assert browser.evaluate(names)[-1] == "robot-202"  # what is open stays
        assert len(browser.evaluate(names)) == 201
        browser.evaluate("document.getElementById('filter').focus()")
        browser.do("type", text="robot-201")
        assert browser.evaluate("[...document.querySelectorAll('#robots tr:not([hidden]) .opens')].length") == 1
        for _ in "robot-201":
            browser.do("press", key="Backspace")
        assert len(browser.evaluate(names)) == 201
        browser.evaluate("document.getElementById('all').focus()")
        browser.do("press", key="Enter")
        assert browser.evaluate(names) == [f"robot-{number}" for number in range(203)]
        assert browser.evaluate("document.activeElement.textContent") == "robot-200"
        assert browser.evaluate("document.getElementById('rest').getClientRects().length") == 0
        assert browser.axe() == []
        assert browser.problems() == []
    finally:
        robots.stop()


def test_of_rows_that_change_their_order_only_those_are_moved_that_must_be(browser: Browser, site: Site) -> None:
    """Each row that is moved is laid out anew: where the first became the last, all others were moved before it."""
    browser.open(site.url)
    moved = """import('/page.js').then(({ arrange }) => [
      [1, 2, 3, 4, 5, 6, 7, 0],
      [7, 0, 1, 2, 3, 4, 5, 6],
      [7, 0, 4, 1, 2, 9, 3, 6, 5],
      [8, 5, 2],
      [2, 5, 8],
      [],
      [3, 1],
    ].map((order) => {
      const list = window.list ??= document.createElement('ul');
      const make = (name) => Object.assign(document.createElement('li'), { name });
      const items = window.items ??= [...Array(10).keys()].map(make);
      if (!list.firstChild) list.append(...items.slice(0, 8));
      const watch = new MutationObserver(() => {});
      watch.observe(list, { childList: true });
      arrange(list, order.map((at) => items[at]));
      const added = watch.takeRecords().reduce((sum, one) => sum + one.addedNodes.length, 0);
      return [[...list.children].map((item) => item.name).join() === order.join(), added];
    }))"""
    assert browser.evaluate(moved) == [[True, count] for count in (1, 2, 3, 2, 2, 0, 1)]


def test_the_worst_come_first_by_state(browser: Browser, site: Site, robots: Robots) -> None:
    browser.open(site.url)
    browser.wait("document.querySelectorAll('#robots tr').length === 3")
    with Connection(site.address, "a-last") as leaves:
        leaves.model("arm").infer(60_000, state=np.zeros(7, np.float32))
    browser.wait("document.querySelector('#robots tr[data-state=gone]') !== null")
    assert browser.evaluate("document.querySelector('#robots .opens').textContent") == "a-last"
    browser.evaluate("document.querySelectorAll('#columns button')[1].click()")
    states = "[...document.querySelectorAll('#robots > tr')].map((row) => row.dataset.state)"
    assert browser.evaluate(states)[0] == "gone"
    browser.evaluate("document.querySelectorAll('#columns button')[1].click()")
    assert browser.evaluate(states)[-1] == "gone"
