"""The pages in a real browser, Debian's Chromium, from disk: drawn, silent, without a request, light and dark.

``make browser`` runs these. They are skipped only where there is no Chromium; with RLHF_JAX_BROWSER=required, which
``make browser`` sets, they fail there.
"""

import base64
import http.server
import json
import os
import shutil
import threading
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from selenium import webdriver

from rlhf_jax.reports import write_comparison, write_report, write_sweep_report
from rlhf_jax.reports.style import THEMES
from tests.reports.conftest import write_hostile_run, write_run
from tests.reports.sweeps import gold_and_kl, random_points, write_sweep

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
DRIVER = next(filter(None, map(shutil.which, ("chromedriver", "chromium.chromedriver"))), None)
REQUIRED = os.environ.get("RLHF_JAX_BROWSER") == "required"

pytestmark = [
    pytest.mark.slow,
    pytest.mark.browser,
    pytest.mark.skipif(
        not (BROWSER and DRIVER) and not REQUIRED,
        reason="no Chromium and chromedriver here; on Debian: apt-get install chromium chromium-driver",
    ),
]


class Tab:
    """One tab, and what a test wants to know of the page in it."""

    def __init__(self) -> None:
        options = webdriver.ChromeOptions()
        options.binary_location = BROWSER or "chromium"
        # Root has no sandbox; the rest is for machines without a display and with little shared memory.
        for word in ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"):
            options.add_argument(word)
        options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
        self.driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(DRIVER or "chromedriver"))
        self.cdp(
            "Page.addScriptToEvaluateOnNewDocument", source="window.alerts = []; window.alert = (x) => alerts.push(x);"
        )

    def cdp(self, command: str, **words: Any) -> Any:
        return self.driver.execute_cdp_cmd(command, words)

    def js(self, code: str, *words: Any) -> Any:
        return self.driver.execute_script(code, *words)

    def size(self, width: int, height: int = 900) -> None:
        metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
        self.cdp("Emulation.setDeviceMetricsOverride", **metrics)

    def theme(self, name: str) -> None:
        self.cdp("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": name}])

    def open(self, address: str, theme: str = "light") -> None:
        for kind in ("browser", "performance"):  # what an earlier page left
            self.driver.get_log(kind)
        self.theme(theme)
        self.driver.get(address)
        self.drawn(theme)

    def drawn(self, theme: str) -> None:
        """Wait until the figures are drawn for a theme."""
        end = time.monotonic() + 60
        while self.js("return document.body.dataset.drawn || ''") != theme:
            assert time.monotonic() < end, f"not drawn: {self.complaints()}"
            time.sleep(0.05)

    def complaints(self) -> list[str]:
        """What stands on the console: script errors, and what the page's policy refused."""
        return [row["message"] for row in self.driver.get_log("browser")]

    def requests(self) -> list[str]:
        """Addresses asked for since ``open``, without those that the page's policy refused before anything was sent."""
        rows = [json.loads(row["message"])["message"] for row in self.driver.get_log("performance")]
        refused = {row["params"]["requestId"] for row in rows if row["params"].get("blockedReason") == "csp"}
        sent = [row["params"] for row in rows if row["method"] == "Network.requestWillBeSent"]
        return [one["request"]["url"] for one in sent if one["requestId"] not in refused]

    def picture(self, path: Path) -> None:
        """The whole page as a PNG file."""
        size = self.cdp("Page.getLayoutMetrics")["cssContentSize"]
        clip = {"x": 0, "y": 0, "width": size["width"], "height": size["height"], "scale": 1}
        data = self.cdp("Page.captureScreenshot", captureBeyondViewport=True, clip=clip)["data"]
        path.write_bytes(base64.b64decode(data))


@pytest.fixture(scope="module")
def tab() -> Iterator[Tab]:
    found = Tab()
    found.size(1280)
    yield found
    found.driver.quit()


def a_run(folder: Path) -> Path:
    return write_report(write_run(folder / "run"))


def a_hostile_run(folder: Path) -> Path:
    return write_report(write_hostile_run(folder / "hostile"))


def a_comparison(folder: Path) -> Path:
    runs = [write_run(folder / "one"), write_run(folder / "two"), write_hostile_run(folder / "third")]
    return write_comparison(runs, folder / "compared")


def a_sweep(folder: Path) -> Path:
    objectives = (("ppo.gold.open", "max"), ("ppo.kl", "min"))
    sweep = write_sweep(folder / "sweep", random_points(6), (0, 1), gold_and_kl, objectives, failed=(3,))
    return write_sweep_report(sweep)


PAGES = (a_run, a_hostile_run, a_comparison, a_sweep)


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Each page, written once, in a folder of a name that nobody would choose."""
    folder = tmp_path_factory.mktemp("pages") / "a folder, ünicode & 100 % #1"
    folder.mkdir()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("rlhf_jax.reports.page.paper", lambda plot, *forms: [b""] * len(forms))
        return {make.__name__: make(folder) for make in PAGES}


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("name", [make.__name__ for make in PAGES])
def test_a_page_opens_from_disk_drawn_and_silent_and_asks_for_nothing(tab, pages, name, theme):
    page = pages[name]
    tab.open(page.as_uri(), theme)
    assert tab.complaints() == []
    asked = set(tab.requests())
    assert page.as_uri() in asked
    assert asked <= {page.as_uri(), (page.parent / "plotly.min.js").as_uri()}
    assert tab.js("return alerts") == []
    # Each figure is drawn: axes, and at least one mark that has an extent.
    figures = tab.js(
        """return Array.from(document.querySelectorAll(".plot"), (box) => ({
             svg: box.querySelectorAll("svg.main-svg").length, ticks: box.querySelectorAll(".xtick, .ytick").length,
             marks: Array.from(box.querySelectorAll(".plot path, .plot .points path"),
                               (mark) => mark.getBoundingClientRect()).filter((r) => r.width + r.height > 0).length,
           }))"""
    )
    assert len(figures) == page.read_text().count('class="plot"') > 0
    assert all(one["svg"] and one["ticks"] and one["marks"] for one in figures), figures
    # The page and its figures have the colours of the theme.
    colours = tab.js(
        """const of = (what, property) => getComputedStyle(document.querySelector(what))[property];
           return [of("body", "backgroundColor"), of("body", "color"), of(".xtick text, .ytick text", "fill")]"""
    )
    assert colours == [rgb(THEMES[theme][name]) for name in ("paper", "ink", "ink")]


def rgb(colour: str) -> str:
    return "rgb({}, {}, {})".format(*(int(colour[place : place + 2], 16) for place in (1, 3, 5)))


def test_figures_follow_a_change_from_light_to_dark(tab, pages):
    tab.open(pages["a_run"].as_uri(), "light")
    tab.theme("dark")
    tab.drawn("dark")
    ink = tab.js("return getComputedStyle(document.querySelector('.xtick text')).fill")
    line = tab.js("return getComputedStyle(document.querySelector('[data-figure=pair_accuracy-1] .js-line')).stroke")
    assert ink == line == rgb(THEMES["dark"]["ink"])
    assert tab.complaints() == []


def test_hostile_text_is_text(tab, pages):
    tab.open(pages["a_hostile_run"].as_uri())
    shown = tab.js("return document.body.innerText")
    assert "<script>alert('x')</script>red$x^{$ \" onload=\"y &lt; <b>%{x}" in shown
    assert "\ufffd" in shown  # in place of half a surrogate pair
    names = tab.js("return Array.from(document.querySelectorAll('.legendtext, .xtitle'), (t) => t.textContent)")
    assert any("<script>alert" in name for name in names), names
    known = tab.js("return Array.from(document.scripts, (s) => s.type || s.getAttribute('src') || 'inline')")
    assert sorted(set(known)) == ["application/json", "inline", "plotly.min.js"]
    assert tab.js("return document.querySelectorAll('[onload], b, iframe, img').length") == 0


def test_the_policy_of_the_page_refuses_what_text_could_ask_for(tab, pages):
    """The escaping undone by hand: a script, a handler, a request and a picture are refused all the same."""
    tab.open(pages["a_run"].as_uri())
    refused = tab.driver.execute_async_script(
        """const done = arguments[0], found = [];
           document.addEventListener("securitypolicyviolation", (event) => found.push(event.effectiveDirective));
           const add = (html) => document.body.insertAdjacentHTML("beforeend", html);
           const script = document.createElement("script");
           script.textContent = "alert('script')";
           document.body.append(script);
           add("<p id='bad' onclick=\\"alert('handler')\\"></p>");
           document.getElementById("bad").click();
           add("<img src='https://192.0.2.1/picture.png'>");
           fetch("https://192.0.2.1/").catch(() => setTimeout(() => done(found), 300));"""
    )
    assert set(refused) == {"script-src-elem", "script-src-attr", "img-src", "connect-src"}
    assert tab.js("return alerts") == []
    assert not [address for address in tab.requests() if address.startswith("http")]


def test_a_click_on_a_heading_sorts(tab, pages):
    tab.open(pages["a_sweep"].as_uri())
    column = """const tables = Array.from(document.querySelectorAll("table.sortable"));
                const table = tables.find((one) => one.tHead.textContent.trim().startsWith("trial"));
                const heads = Array.from(table.tHead.rows[0].cells);
                const place = heads.findIndex((head) => head.textContent.trim() === arguments[0]);
                if (arguments[1]) heads[place].querySelector("button").click();
                return [Array.from(table.tBodies[0].rows, (row) => row.cells[place].textContent.trim()),
                        heads[place].getAttribute("aria-sort")];"""
    (before, _), (up, said), (down, then) = (tab.js(column, "ppo.gold.open", click) for click in (False, True, True))
    known = sorted((value for value in before if value != "–"), key=float)
    assert before.count("–") == 1  # the trial that failed
    assert up == [*known, "–"]
    assert down == [*reversed(known), "–"]
    assert (said, then) == ("ascending", "descending")
    states, _ = tab.js(column, "state", True)
    assert states == sorted(states)


def test_the_line_under_the_pointer_is_picked_out(tab, pages):
    """Of parallel coordinates; and none is when the pointer has gone."""
    tab.open(pages["a_sweep"].as_uri())
    box = tab.driver.find_element("css selector", "[data-figure=parallel-1]")
    faint = "return arguments[0].data.filter((trace) => trace.opacity < 0.2).length"
    lines = tab.js('arguments[0].scrollIntoView({block: "center"}); return arguments[0].data.length', box)
    x, y = tab.js(
        """const middle = (what) => {
             const r = what.getBoundingClientRect();
             return [r.x + r.width / 2, r.y + r.height / 2];
           };
           const [a, b] = middle(arguments[0]), [c, d] = middle(arguments[0].querySelectorAll(".points path")[3]);
           return [Math.round(c - a), Math.round(d - b)]""",
        box,
    )
    pointer = webdriver.ActionChains(tab.driver)
    for place, expected in (((x, y), lines - 1), ((0, -box.size["height"] // 2 - 5), 0)):
        pointer.move_to_element_with_offset(box, *place).perform()
        end = time.monotonic() + 5
        while tab.js(faint, box) != expected and time.monotonic() < end:
            time.sleep(0.05)
        assert tab.js(faint, box) == expected
    assert lines > 4


def test_a_narrow_screen_shows_all_without_scrolling_sideways(tab, pages):
    try:
        tab.size(400)
        for name in ("a_run", "a_sweep"):
            tab.open(pages[name].as_uri())
            assert tab.js("return document.documentElement.scrollWidth") <= 400, name
    finally:
        tab.size(1280)


def test_a_page_that_a_server_shows_is_drawn_too(tab, pages):
    folder = pages["a_run"].parent
    quiet = type("Quiet", (http.server.SimpleHTTPRequestHandler,), {"log_message": lambda *_: None})
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), partial(quiet, directory=str(folder))) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        tab.open(f"http://127.0.0.1:{server.server_port}/index.html")
        complaints = [line for line in tab.complaints() if "favicon" not in line]
        server.shutdown()
    assert complaints == []


@pytest.mark.usefixtures("twins")
def test_without_scripts_the_figures_are_pictures(tab, small_run):
    page = write_report(small_run)
    tab.cdp("Emulation.setScriptExecutionDisabled", value=True)
    try:
        tab.driver.get(page.as_uri())
        time.sleep(0.5)
    finally:
        tab.cdp("Emulation.setScriptExecutionDisabled", value=False)
    width = tab.js("return document.querySelector('noscript img').naturalWidth")
    assert width > 500


def test_the_longest_text_a_model_may_write_keeps_the_page_readable(tab, pages):
    """10,000 characters without a space, in a cell of its own height."""
    tab.open(pages["a_hostile_run"].as_uri())
    heights = tab.js("return Array.from(document.querySelectorAll('.words'), (text) => text.offsetHeight)")
    assert max(heights) < 300
