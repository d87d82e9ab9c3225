"""A compiled pass: the network's own, to rounding, for learners that run it often without a gradient."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from torch import Tensor
from torch._inductor import aoti_load_package

from adapters import AdapterState
from adapters.base import Forward, NormState, Params
from adapters.grouping import Stepped
from adapters.pipeline import Fit, Pipeline, PipelineState
from service.backends.graph import passed_in


class NativeReading:
    """Takes a pipeline's steps, in which passes without a gradient run a package that `making` has written.

    Args:
        package: Its file, not needed any more once it is loaded.
        pipeline: Whose steps they are.
        fit: That, fitted to the model.
        images: In each pass; the network itself runs those of other sizes.
    """

    def __init__(self, package: Path, pipeline: Pipeline, fit: Fit, images: int) -> None:
        self._run: Callable[..., tuple[Tensor, ...]] = aoti_load_package(str(package))
        self._pipeline = pipeline
        self._images = images
        self._net = fit.net
        self._fit = replace(fit, net=fit.net.read_by(self._read))

    def step(self, state: AdapterState, x: Tensor) -> Stepped:
        """Answer x (N, *input_shape) and learn from it; `state` is left as it was."""
        if not isinstance(state, PipelineState):
            raise TypeError(f"the state is a {type(state).__name__}, expected a pipeline's")
        return self._pipeline.step(self._fit, state, x)

    def _read(self, params: Params, norm: NormState, x: Tensor) -> Forward:
        if len(x) != self._images:
            return self._net.forward(params, norm, x)
        given = [tensor.contiguous() for tensor in passed_in({**self._net.weights, **params}, norm).values()]
        logits, features, *drift = self._run(x.contiguous(memory_format=self._net.memory_format), given)
        return Forward(logits, features, drift[0] if drift else None)
