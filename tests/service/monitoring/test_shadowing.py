"""The report of shadow mode, and the comparison of features: on made answers and over HTTP."""

import numpy as np
import pytest
import torch

from service.monitoring.feature_shift import KEPT, compared, kept
from service.monitoring.shadow import ShadowReport
from tests.serving import serving


def sure(*labels):
    return torch.eye(4)[list(labels)] * 0.9 + 0.025


def test_a_report_counts_what_adapting_would_have_changed_and_how():
    first = ShadowReport().plus(adapted=sure(0, 1, 2), source=sure(0, 1, 1))

    report = first.plus(adapted=sure(2, 3), source=sure(1, 3))

    assert (report.images, report.changed) == (5, 2)
    assert report.commonest(5) == [(1, 2, 2)]
    assert (first.images, first.changed, first.commonest(5)) == (3, 1, [(1, 2, 1)])
    assert report.entropy == pytest.approx(report.source_entropy)


def test_features_of_the_newest_images_are_kept():
    rows = torch.arange(100.0)[:, None]

    features = kept(kept(None, rows[:40]), rows[40:])

    assert torch.equal(features, rows[-KEPT:])


def test_shifted_features_are_told_from_the_reference_and_equal_ones_are_not():
    generator = torch.Generator().manual_seed(0)
    reference = torch.randn(200, 8, generator=generator)
    fair = torch.randn(64, 8, generator=generator)

    alike, apart = compared(fair, reference, seed=0), compared(fair + 1, reference, seed=0)

    assert (alike.differ, apart.differ) == (False, True)
    assert alike.mmd < 0.02 < apart.mmd
    assert alike.unlike == 0
    assert apart.unlike == 1
    assert compared(fair, reference, seed=0) == alike


def infer(client, stream, images, request_id):
    inputs = {"name": "input", "shape": list(images.shape), "datatype": "UINT8", "data": images.ravel().tolist()}
    body = {"id": request_id, "inputs": [inputs], "parameters": {"sequence_id": stream}}
    answer = client.post("/v2/models/fashion/infer", json=body)
    assert answer.status_code == 200, answer.text


def test_a_shadow_stream_reports_over_http_with_late_labels(tmp_path):
    images = np.random.default_rng(0).integers(0, 256, (16, 1, 28, 28), dtype=np.uint8)

    with serving(tmp_path) as server, server.client() as client:
        client.post("/v1/streams", json={"id": "s", "mode": "shadow", "adapter": "batch+tent"})
        client.post("/v1/streams", json={"id": "plain"})
        for number in range(4):
            infer(client, "s", images, f"r{number}")
        client.post("/v1/streams/s/feedback", json={"items": [{"request": "r3", "labels": [0] * 16}]})
        shown = client.get("/v1/streams/s").json()["shadow"]
        plain = client.get("/v1/streams/plain").json()["shadow"]

    assert plain is None
    assert shown["images"] == 64
    assert 0 < shown["changed"] <= 1
    assert sum(move["images"] for move in shown["moves"]) <= 64 * shown["changed"] + 1e-6
    assert {"accuracy", "source_accuracy"} <= set(shown)
    assert shown["accuracy"] is not None
    assert shown["source_accuracy"] is not None
