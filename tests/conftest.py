"""One torch thread: the tests' networks are small, and two cores are shared with the servers they start."""

import gc
import os

import structlog
import torch

torch.set_num_threads(1)
os.environ["ACCLIMATE_COMPILED"] = "false"  # graphs take seconds to make; the tests of graphs ask for them

structlog.configure(
    processors=[
        *structlog.get_config()["processors"][:-1],
        structlog.dev.ConsoleRenderer(colors=False, exception_formatter=structlog.dev.plain_traceback),
    ]
)
"""A logged error is a plain traceback: its usual form prints all local variables, which takes seconds."""

LONG_FIRST = ("tests/stores", "tests/soak", "tests/e2e", "tests/deploy", "tests/project", "tests/service/models")
"""Folders whose tests start servers, browsers and compilers: one that began last would run on while a worker idles."""


def pytest_collection_modifyitems(items):
    """Run the files of long tests first."""
    places = {folder: place for place, folder in enumerate(LONG_FIRST)}

    def place(item):
        return next((places[folder] for folder in LONG_FIRST if item.nodeid.startswith(f"{folder}/")), len(places))

    items.sort(key=place)


def pytest_collection_finish():
    """Leave all modules and tests out of the garbage collector's searches, a quarter of the tests' time otherwise."""
    gc.freeze()
