"""What the end-to-end tests share."""

import pytest
from playwright.sync_api import sync_playwright

from tests.e2e.pages import CHROMIUM, FLAGS


@pytest.fixture(scope="module")
def browser():
    assert CHROMIUM, "CI needs chromium, chromium-browser or google-chrome"
    with sync_playwright() as playwright:
        launched = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield launched
        launched.close()
