"""bfloat16: half the digits in convolutions and products, all of them in statistics, states and answers."""

import pytest
import torch

from adapters import create
from adapters.errors import OptionError, UnfitModelError
from adapters.precision import check_bfloat16
from adapters.state import flatten
from service.models.kernels.capabilities import capabilities
from tests.models import reference_source

SUPPORTED = bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
with_bfloat16 = pytest.mark.skipif(not SUPPORTED, reason="this processor does not compute in bfloat16")
SPECS = ["source", "batch", "ema", "unmix_tns", "batch+tent", "unmix_tns+eta", "source+lame"]


def steps(spec, precision, batches):
    adapter = create(spec, precision=precision)
    prepared = adapter.prepare(reference_source())
    state, outputs = adapter.init(prepared), []
    for x in batches:
        output, state = adapter.step(prepared, state, x)
        outputs.append(output)
    return outputs, state


@with_bfloat16
@pytest.mark.parametrize("spec", SPECS)
def test_answers_are_near_and_states_in_full_precision(spec):
    generator = torch.Generator().manual_seed(0)
    batches = [torch.rand(16, 3, 16, 16, generator=generator) for _ in range(3)]

    (exact, full), (near, state) = (steps(spec, precision, batches) for precision in ("float32", "bfloat16"))

    for one, other in zip(exact, near, strict=True):
        assert other.logits.dtype == other.probabilities.dtype == torch.float32
        # 8 bits of mantissa: each of the few layers rounds by 1/512 of its values
        torch.testing.assert_close(other.logits, one.logits, rtol=0.05, atol=0.05 * float(one.logits.abs().max()))
        assert not torch.equal(other.logits, one.logits)
    assert {name: tensor.dtype for name, tensor in flatten(state).items()} == {
        name: tensor.dtype for name, tensor in flatten(full).items()
    }


@with_bfloat16
def test_a_step_is_repeated_bit_for_bit():
    x = torch.rand(8, 3, 16, 16, generator=torch.Generator().manual_seed(1))
    (one, first), (other, second) = (steps("batch+tent", "bfloat16", [x, x]) for _ in range(2))

    assert torch.equal(one[1].logits, other[1].logits)
    assert all(torch.equal(tensor, flatten(second)[name]) for name, tensor in flatten(first).items())


@with_bfloat16
def test_one_image_and_constant_images_are_answered_finitely():
    (one, constant), _ = steps("unmix_tns+tent", "bfloat16", [torch.rand(1, 3, 16, 16), torch.zeros(4, 3, 16, 16)])

    assert torch.isfinite(one.probabilities).all()
    assert torch.isfinite(constant.probabilities).all()


def test_an_unknown_precision_is_refused_with_those_there_are():
    with pytest.raises(OptionError, match="precision is 'float16', expected one of float32, bfloat16"):
        create("batch", precision="float16")


def test_it_is_refused_where_another_runtime_computes():
    with pytest.raises(UnfitModelError, match="a graph; float32 works"):
        check_bfloat16("this is a graph")


@pytest.mark.skipif(SUPPORTED, reason="this processor computes in bfloat16")
def test_it_is_refused_where_the_processor_does_not_compute_so():
    with pytest.raises(UnfitModelError, match="does not compute in bfloat16"):
        create("batch", precision="bfloat16").prepare(reference_source())


def test_it_has_no_graph_and_says_so():
    can = capabilities(create("unmix_tns", precision="bfloat16"), create("unmix_tns").prepare(reference_source()))
    assert can.graph == "it computes in bfloat16, graphs in float32"
    assert can.joint == ""
    assert not can.joint_graph
