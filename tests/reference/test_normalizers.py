"""RoTTA's and NOTE's norm layers by themselves: outputs within 1e-4, layers within 1e-5, statistics within 1e-6."""

import numpy as np
import pytest
import torch

from adapters import create
from tests.models import REFERENCE, reference_source
from tests.reference.test_reference import stream

OUTPUTS, LAYERS, STATISTICS = 1e-4, 1e-5, 1e-6


def close(ours, reference, tolerance):
    torch.testing.assert_close(ours, torch.from_numpy(reference), atol=tolerance, rtol=0)


def statistics_are(state, reference, prefix):
    for name, layer in state.norm["student"].items():
        close(layer.mean, reference[f"{prefix}/{name}.running_mean"], STATISTICS)
        close(layer.var, reference[f"{prefix}/{name}.running_var"], STATISTICS)


def test_rotta_bn_moves_and_normalises_as_the_public_layer():
    reference = np.load(REFERENCE / "rotta_bn.npz")
    adapter = create("rotta_bn")
    prepared = adapter.prepare(reference_source())
    state = adapter.init(prepared)
    statistics_are(state, reference, "init")
    observed, evaluated = [], []

    for number, x in enumerate(stream(32)):
        output, state = adapter.step(prepared, state, x)
        observed.append(output.logits)
        evaluated.append(adapter.predict(prepared, state, x).logits)
        if number == 0:
            statistics_are(state, reference, "after_b0")

    close(torch.cat(observed), reference["outputs"], OUTPUTS)
    close(torch.cat(evaluated), reference["outputs_eval_after"], OUTPUTS)
    statistics_are(state, reference, "final")


def test_note_iabn_answers_as_the_public_layer_without_adapting():
    reference = np.load(REFERENCE / "note_iabn.npz")
    adapter = create("note_iabn")
    prepared = adapter.prepare(reference_source())
    answers = [adapter.predict(prepared, adapter.init(prepared), x).logits for x in stream(32)]

    close(torch.cat(answers), reference["outputs"], OUTPUTS)


def test_note_iabn_observes_as_the_public_layer_trains():
    reference = np.load(REFERENCE / "note_iabn.npz")
    adapter = create("note_iabn")
    prepared = adapter.prepare(reference_source())

    output, state = adapter.step(prepared, adapter.init(prepared), stream(32)[0])

    close(output.logits, reference["outputs_train_b0"], OUTPUTS)
    statistics_are(state, reference, "after_train_b0")


@pytest.mark.parametrize("name", ["1", "4", "7"])
def test_a_note_iabn_layer_is_the_public_one(name):
    reference = np.load(REFERENCE / "note_iabn.npz")
    adapter = create("note_iabn")
    layer = adapter.prepare(reference_source()).net.layers[name]
    state = adapter.normalizer.init(layer, torch.Generator())

    with torch.no_grad():
        normalized = adapter.normalizer.forward(layer, state, torch.from_numpy(reference[f"layer_in/{name}"]))

    close(normalized.y, reference[f"layer_out/{name}"], LAYERS)
