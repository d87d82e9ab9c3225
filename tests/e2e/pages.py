"""The dashboard's pages as a test sees them: opened in a real browser, their rows, tiles and buttons."""

import os
import re
import shutil
from contextlib import contextmanager
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from tests.serving import ROOT

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
IN_CHROMIUM = [
    pytest.mark.e2e,
    pytest.mark.skipif(
        CHROMIUM is None and not os.environ.get("CI"),
        reason="no chromium, chromium-browser or google-chrome is installed here",
    ),
]
FLAGS = [
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
]  # fmt: skip
SCREENSHOTS = Path(os.environ.get("ACCLIMATE_SCREENSHOTS", ROOT / "build" / "screenshots"))
WIDE, NARROW = (1280, 900), (360, 780)


@contextmanager
def looking(browser, url, size=WIDE, theme="light", refused=None):
    """Yield a page of its own; whatever it says in the console but notes is a failure.

    A call that is refused on purpose is noted there by the browser itself: that status alone is no failure.
    """
    said = []
    context = browser.new_context(
        viewport={"width": size[0], "height": size[1]}, color_scheme=theme, reduced_motion="reduce", base_url=url
    )
    context.set_default_timeout(15_000)
    page = context.new_page()
    page.on("console", lambda message: said.append(message.text) if message.type in ("error", "warning") else None)
    page.on("pageerror", lambda error: said.append(str(error)))
    try:
        yield page
        text = page.locator("body").inner_text()
    finally:
        context.close()
    assert [line for line in said if f"responded with a status of {refused} " not in line] == []
    assert re.findall(r"\bNaN\b|\bundefined\b|\[object|Infinity", text) == []


def open_stream(page: Page, stream):
    page.goto(f"/#/streams/{stream}")
    expect(page.get_by_role("heading", level=1)).to_have_text(stream)
    expect(page.locator(".action-bar")).to_be_visible()


def rows(page: Page):
    return page.locator(".streams tbody tr:not(.spacer)")


def names(page: Page):
    settle(page)
    return rows(page).locator("td.cell-id a").all_inner_texts()


def settle(page: Page):
    """Wait until what is asked for is drawn: rows follow in the next frame."""
    page.evaluate("new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))")


def act(page: Page, button):
    """Press a button of the stream page; return the dialog that asks back."""
    page.locator(".action-bar").get_by_role("button", name=button).click()
    dialog = page.get_by_role("dialog")
    expect(dialog).to_be_visible()
    return dialog


def fact(page: Page, title):
    return page.locator(".facts > div", has=page.locator("dt", has_text=re.compile(f"^{title}$"))).locator("dd")


def tile(page: Page, title):
    return page.locator(".tile", has=page.locator("dt", has_text=re.compile(f"^{title}$"))).locator("dd")


def section(page: Page, title):
    return page.locator("section", has=page.locator("h2", has_text=re.compile(f"^{title}$")))


def keep(page: Page, name, size, theme, whole=False):
    """Keep a picture of the page, or of all that it scrolls over."""
    page.screenshot(path=SCREENSHOTS / f"{name}-{size[0]}-{theme}.png", full_page=whole)


def fits(page: Page):
    return page.evaluate("document.documentElement.scrollWidth <= document.documentElement.clientWidth")
