"""The page of search in a browser without a window: as someone types and clicks, on a desk and on a telephone."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("gradio", reason="needs gradio: pip install -e '.[dev]'")
pytest.importorskip("fastapi_offline", reason="needs fastapi-offline: pip install -e '.[dev]'")
pytest.importorskip("selenium", reason="needs selenium: pip install -e '.[dev]'")

from selenium.common.exceptions import StaleElementReferenceException
from selenium.webdriver import Chrome, ChromeOptions, ChromeService
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.remote.webelement import WebElement
from selenium.webdriver.support.ui import WebDriverWait
from served import make_index, serving

from bdam_reid.methods import PRESETS
from bdam_reid.search.query import Question
from bdam_reid.search.serve.api import make_api
from bdam_reid.search.serve.guard import LARGEST, Guard, usual_limits
from bdam_reid.search.serve.live import Live
from bdam_reid.search.serve.page import add_page

CHROMIUM, DRIVER = shutil.which("chromium") or shutil.which("google-chrome"), shutil.which("chromedriver")
pytestmark = pytest.mark.skipif(
    not (CHROMIUM and DRIVER), reason="needs Chromium and its driver: apt install chromium chromium-driver"
)
PATIENCE = 60
"""Seconds, on a machine that does other things."""


@pytest.fixture(scope="module")
def live(finished: Path, people: Path, tmp_path_factory: pytest.TempPathFactory) -> Live:
    return Live(make_index(finished, people, tmp_path_factory.mktemp("page")), PRESETS)


@pytest.fixture(scope="module")
def address(live: Live) -> Iterator[str]:
    with serving(Guard(add_page(make_api(live), live, LARGEST), "", ["127.0.0.1"], usual_limits())) as address:
        yield address


@pytest.fixture(scope="module")
def chrome() -> Iterator[Chrome]:
    options = ChromeOptions()
    options.binary_location = CHROMIUM or ""
    profile = tempfile.mkdtemp()
    for argument in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu", "--lang=en",
                     "--disable-background-networking", f"--user-data-dir={profile}"):  # fmt: skip
        options.add_argument(argument)
    driver = Chrome(options=options, service=ChromeService(DRIVER))
    yield driver
    driver.quit()
    shutil.rmtree(profile, ignore_errors=True)


class Visitor:
    def __init__(self, chrome: Chrome, address: str, width: int, height: int) -> None:
        self.chrome = chrome
        chrome.execute_cdp_cmd(
            "Emulation.setDeviceMetricsOverride",
            {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False},
        )
        chrome.get(address)
        self.sentence = self.wait_for(lambda: self.one("#sentence input, #sentence textarea"))

    def wait_for(self, what: Callable[[], Any]) -> Any:
        wait = WebDriverWait(self.chrome, PATIENCE, 0.05, [StaleElementReferenceException])
        return wait.until(lambda _: what())

    def all(self, selector: str) -> list[WebElement]:
        return self.chrome.find_elements("css selector", selector)

    def one(self, selector: str) -> WebElement | None:
        return next(iter(self.all(selector)), None)

    def paths(self) -> list[str]:
        return self.chrome.execute_script(
            "return [...document.querySelectorAll('#results button')].map(button => button.dataset.path)"
        )

    def says(self, words: str) -> bool:
        status = self.one("#status")
        return status is not None and words in status.text

    def text(self) -> str:
        return self.chrome.find_element("css selector", "body").text

    def asks(self, sentence: str) -> None:
        self.sentence.send_keys(Keys.CONTROL, "a")
        self.sentence.send_keys(sentence, Keys.ENTER)

    def is_within_the_screen(self) -> bool:
        return self.chrome.execute_script("return document.documentElement.scrollWidth <= window.innerWidth")

    def shot(self, path: Path) -> None:
        loaded = "return [...document.querySelectorAll('#results img')].every(i => i.complete && i.naturalWidth > 0)"
        self.wait_for(lambda: self.chrome.execute_script(loaded))
        self.chrome.save_screenshot(str(path))
        assert path.stat().st_size > 10_000


def test_a_visitor_at_a_desk(chrome: Chrome, address: str, live: Live, tmp_path: Path) -> None:
    finder = live.now().finder
    visitor = Visitor(chrome, address, 1280, 900)
    assert chrome.switch_to.active_element == visitor.sentence and visitor.says("press Enter")
    visitor.asks("a man in a sapphire shirt")
    read = finder.reword("a man in a sapphire shirt").text
    expected = [hit.path for hit in finder.find(Question(read), 24)]
    visitor.wait_for(lambda: visitor.paths() == expected)
    assert visitor.says(f"{len(expected)} photographs") and visitor.says(f"Read as: {read}")
    visitor.shot(tmp_path / "desk.png")

    last = visitor.all("#results button")[-1]
    assert "search by this picture" in last.get_attribute("aria-label")
    last.send_keys(Keys.ENTER)
    alike = [hit.path for hit in finder.find(Question(pictures=(live.now().index.folder / expected[-1],)), 24)]
    assert alike != expected
    visitor.wait_for(lambda: visitor.paths() == alike)
    assert alike[0] == expected[-1] and visitor.sentence.get_attribute("value") == ""
    visitor.wait_for(lambda: visitor.one("#picture img"))

    visitor.asks("a man - ")
    visitor.wait_for(lambda: visitor.says('after each " - " must stand what is not wanted'))
    assert visitor.paths() == [] and visitor.one("#status [role=alert]")

    visitor.one("#earlier input").click()
    visitor.wait_for(lambda: len(visitor.all("[role=option]")) == 2)
    next(option for option in visitor.all("[role=option]") if "sapphire" in option.text).click()
    visitor.wait_for(lambda: visitor.paths() == expected)
    assert visitor.sentence.get_attribute("value") == "a man in a sapphire shirt" and not visitor.one("#picture img")

    visitor.one("button.label-wrap").click()
    visitor.wait_for(lambda: visitor.one("input[type=file]"))
    file = visitor.one("input[type=file]")
    damaged, whole = tmp_path / "damaged.png", tmp_path / "whole.jpg"
    damaged.write_bytes(b"\x89PNG and no more")
    file.send_keys(str(damaged))
    visitor.wait_for(lambda: "a picture must be a JPEG, PNG" in visitor.text())
    assert visitor.paths() == expected and not visitor.one("#picture img")
    shutil.copy(live.now().index.folder / expected[-1], whole)
    file.send_keys(str(whole))
    visitor.wait_for(lambda: visitor.one("#picture img"))
    assert "Like whole.jpg" in visitor.one("#picture").text

    # Nothing came from elsewhere, and all that is on the page has a name.
    sources = chrome.execute_script("return performance.getEntriesByType('resource').map(entry => entry.name)")
    assert sources and all(source.startswith((address, "data:", "blob:")) for source in sources)
    assert chrome.execute_script("return [...document.images].every(image => image.alt)")
    nameless = """return [...document.querySelectorAll('input, textarea, button')].filter(e => e.offsetParent &&
        !e.labels?.length && !e.ariaLabel && !e.innerText.trim() && !e.title).map(e => e.outerHTML)"""
    assert chrome.execute_script(nameless) == []


def test_a_visitor_with_a_telephone(chrome: Chrome, address: str, tmp_path: Path) -> None:
    visitor = Visitor(chrome, address, 400, 800)
    assert visitor.is_within_the_screen()
    visitor.asks("a woman in a red coat")
    visitor.wait_for(visitor.paths)
    assert visitor.is_within_the_screen()
    visitor.shot(tmp_path / "telephone.png")
