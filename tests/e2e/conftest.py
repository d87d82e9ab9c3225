"""What the end-to-end tests share."""

import pytest
from playwright.sync_api import expect, sync_playwright

from tests.e2e.pages import CHROMIUM, FLAGS
from tests.serving import SLACK_SECONDS


@pytest.fixture(scope="module")
def browser():
    assert CHROMIUM, "CI needs chromium, chromium-browser or google-chrome"
    expect.set_options(timeout=1000 * SLACK_SECONDS)
    with sync_playwright() as playwright:
        launched = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield launched
        launched.close()
