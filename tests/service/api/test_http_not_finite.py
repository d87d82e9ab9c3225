"""Rows of an answer that are not finite: label -1, null probabilities, and a warning, in every mode."""

import json

import numpy as np
import pytest
from safetensors.torch import load_file, save_file

from service.client.inference import read_answer
from tests.applications import OCTETS, application, facts
from tests.bundles import torch_bundle
from tests.models import REFERENCE
from tests.serving import images, infer_body, outputs

KINDS = ("Contrast", "Overflow")
MODES = {
    "adapt": {},
    "frozen": {"mode": "frozen"},
    "shadow": {"mode": "shadow"},
    "window": {"adapt_batch_size": 8},
}
SPECS = ("source", "batch+tent", "ema", "source+lame")
BLACK = [1, 3]


def bundle(folder, kind):
    factory = f"tests.models:{kind}"
    torch_bundle(folder, name=kind.lower(), factory=factory)
    weights = {f"network.{name}": tensor for name, tensor in load_file(REFERENCE / "model.safetensors").items()}
    save_file(weights, folder / "model.safetensors")
    return folder


@pytest.fixture(scope="module")
def api(tmp_path_factory):
    folder = tmp_path_factory.mktemp("broken")
    made = [bundle(folder / kind, kind) for kind in (*KINDS, "Masked")]
    allowed = tuple(f"tests.models:{kind}" for kind in (*KINDS, "Masked"))
    with application(folder, *made, allow_factories=allowed, keep_misfits=4) as running:
        yield running


def some_black(count=5, seed=0, rows=BLACK):
    x = images(count, seed)
    x[rows] = 0
    return x


def infer(api, x, stream, model="contrast", **body):
    response = api("POST", f"/v2/models/{model}/infer", json={**infer_body(x, stream), **body})
    assert response.status_code == 200, response.text
    return response.json()


def data(answer, name):
    return next(output["data"] for output in answer["outputs"] if output["name"] == name)


def assert_named(answer, rows):
    assert f"rows {', '.join(map(str, rows))} of the answer are not finite" in facts(answer)["tta_warning"]
    assert all(np.isfinite(value) for value in facts(answer).values() if isinstance(value, float))


@pytest.mark.parametrize("spec", SPECS)
@pytest.mark.parametrize("mode", MODES)
def test_rows_that_are_not_finite_have_no_class_in_any_mode(api, mode, spec):
    stream = f"{mode}-{spec.replace('+', '-')}"
    api.create(id=stream, model="contrast", adapter=spec, **MODES[mode])

    for seed in range(2):
        answer = infer(api, some_black(seed=seed), stream)

        labels, probabilities = np.array(data(answer, "labels")), data(answer, "probabilities")
        assert np.flatnonzero(labels == -1).tolist() == BLACK
        assert labels.max() < 10
        assert [row for row in range(5) if probabilities[10 * row : 10 * row + 10] == [None] * 10] == BLACK
        assert sum(value is None for value in probabilities) == 20
        assert_named(answer, BLACK)
        assert np.isfinite(facts(answer)["tta_entropy"])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("wanted", ["labels", "probabilities", "logits"])
def test_whatever_output_is_asked_for_the_rows_are_named(api, kind, wanted):
    answer = infer(api, some_black(), None, kind.lower(), outputs=[{"name": wanted}])

    assert_named(answer, BLACK)
    assert facts(answer)["tta_warning"].startswith("no sequence_id was given")
    if wanted == "labels":
        assert np.flatnonzero(np.array(data(answer, "labels")) == -1).tolist() == BLACK


def test_a_class_that_the_network_rules_out_by_a_logit_of_minus_infinity_leaves_the_row_its_answer(api):
    answer = outputs(infer(api, some_black(), "masked", "masked"))

    assert answer["labels"].min() > -1
    assert answer["probabilities"][BLACK, 0].tolist() == [0.0, 0.0]
    np.testing.assert_allclose(answer["probabilities"].astype(float).sum(1), 1, rtol=1e-5)


def test_raw_outputs_hold_nan_and_minus_one(api):
    body = infer_body(some_black(), "raw", binary_data_output=True)
    response = api("POST", "/v2/models/contrast/infer", content=json.dumps(body), headers=OCTETS)
    answer = read_answer(response.content, int(response.headers["Inference-Header-Content-Length"]))

    assert np.flatnonzero(answer.outputs["labels"] == -1).tolist() == BLACK
    assert np.flatnonzero(np.isnan(answer.outputs["probabilities"]).all(1)).tolist() == BLACK
    assert np.isnan(answer.outputs["probabilities"]).any(1).sum() == len(BLACK)


def test_the_other_rows_are_answered_as_without_them(api):
    x = some_black()
    good = [row for row in range(5) if row not in BLACK]
    for stream in ("with", "without"):
        api.create(id=stream, model="contrast", adapter="ema", mode="frozen")

    answer = outputs(infer(api, x, "with"))
    alone = outputs(infer(api, x[good], "without"))

    np.testing.assert_allclose(answer["logits"][good].astype(float), alone["logits"], atol=1e-5)


def test_many_rows_are_named_up_to_a_bound(api):
    answer = infer(api, np.zeros((64, 3, 16, 16), np.float32), "all-black")

    said = facts(answer)["tta_warning"]
    assert "rows 0, 1, 2, 3, 4, 5, 6, 7, 8, 9 and 54 more of the answer are not finite" in said
    assert len(said) < 600
    assert set(data(answer, "labels")) == {-1}
    assert "tta_entropy" not in facts(answer)


def test_one_row_is_named_in_the_singular(api):
    said = facts(infer(api, some_black(rows=[2]), "one"))["tta_warning"]

    assert "row 2 of the answer is not finite: its label is -1" in said


def test_rows_without_an_answer_count_as_no_class_anywhere(api):
    api.create(id="counted", model="contrast", adapter="ema", mode="shadow")
    for seed in range(3):
        answer = infer(api, some_black(seed=seed), "counted", id=f"r{seed}")
    misfits = api("GET", "/v1/streams/counted/history").json()["misfits"]
    zeros = {"items": [{"request": f"r{seed}", "labels": [0] * 5} for seed in range(3)]}
    said = api("POST", "/v1/streams/counted/feedback", json=zeros).json()

    zero_labels = sum(data(infer(api, some_black(seed=seed), None), "labels").count(0) for seed in range(3))
    assert said["accuracy"] == said["source_accuracy"] == zero_labels / 15
    assert facts(answer)["tta_source_agreement"] == 1.0
    assert len(misfits) == 3
    assert {misfit["label"] for misfit in misfits} <= set("abcdefghij")
    assert api.stream("counted")["shadow"]["images"] == 3 * 3


def test_agreement_of_a_request_without_any_finite_row_is_the_one_before(api):
    api.create(id="aged", model="contrast", adapter="ema", mode="shadow")
    before = infer(api, images(4), "aged")
    after = infer(api, np.zeros((4, 3, 16, 16), np.float32), "aged")

    assert facts(after)["tta_source_agreement"] == facts(before)["tta_source_agreement"]
    assert facts(after)["tta_source_age"] == facts(before)["tta_source_age"] + 1


def test_a_finite_answer_has_no_warning(api):
    answer = infer(api, images(4), "fine")

    assert "tta_warning" not in facts(answer)
    assert min(data(answer, "labels")) >= 0
