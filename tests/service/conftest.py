"""Applications that the tests of the HTTP contract call."""

import pytest

from tests.applications import MAX_BODY, application
from tests.bundles import torch_bundle
from tests.serving import images, infer_body


@pytest.fixture(scope="module")
def bundles(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bundles")
    return [torch_bundle(folder / name, name=name) for name in ("reference", "second")]


@pytest.fixture
def api(bundles, tmp_path):
    """A fresh application that serves one model."""
    with application(tmp_path, bundles[0]) as running:
        yield running


@pytest.fixture(scope="module")
def bounded(bundles, tmp_path_factory):
    """An application with low bounds, two models, and a stream in each that has learned."""
    limits = {"max_body_bytes": MAX_BODY, "max_batch": 8}
    with application(tmp_path_factory.mktemp("bounded"), *bundles, **limits) as running:
        running.infer(images(2), "known", "used")
        running.infer(images(2, 1), "known")
        running("POST", "/v1/streams/known/snapshots", json={"name": "kept"})
        body = infer_body(images(2), "elsewhere")
        assert running("POST", "/v2/models/second/infer", json=body).status_code == 200
        yield running
