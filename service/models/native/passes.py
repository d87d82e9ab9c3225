"""Compiled passes: the network's own, to rounding, for learners that take many in a step."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from torch import Tensor

from adapters import AdapterState
from adapters.joint_step import Stepped
from adapters.pipeline import Fit, Pipeline, PipelineState
from adapters.state import flatten, rebuild
from adapters.values import Forward, Imitated, NormState, Params
from service.models.graphs.export import passed_in
from service.models.native.package import load

READ, OBSERVE, IMITATE = "read.pt2", "observe.pt2", "imitate.pt2"
"""The files of the three passes in a job's folder."""


class NativePasses:
    """Takes a pipeline's steps, in which passes run packages that `making` has written.

    Args:
        folder: Where they lie, not needed any more once they are loaded.
        pipeline: Whose steps they are.
        fit: That, fitted to the model.
        images: In each pass; the network itself runs those of other sizes.
    """

    def __init__(self, folder: Path, pipeline: Pipeline, fit: Fit, images: int) -> None:
        self._runs = {name: load(folder / name) for name in (READ, OBSERVE, IMITATE)}
        self._pipeline = pipeline
        self._images = images
        self._net = fit.net
        self._weights = fit.net.weights
        self._imitating = list(pipeline.learner.imitating(fit.net))
        self._fit = replace(fit, net=fit.net.run_by(self._observe, self._read, self._imitate))

    def step(self, state: AdapterState, x: Tensor) -> Stepped:
        """Answer x (N, *input_shape) and learn from it; `state` is left as it was."""
        if not isinstance(state, PipelineState):
            raise TypeError(f"the state is a {type(state).__name__}, expected a pipeline's")
        return self._pipeline.step(self._fit, state, x)

    def _read(self, params: Params, norm: NormState, x: Tensor) -> Forward:
        if len(x) != self._images:
            return self._net.forward(params, norm, x)
        return _heard(self._run(READ, x, self._given(params, norm)))

    def _observe(self, params: Params, norm: NormState, x: Tensor) -> tuple[Forward, NormState]:
        if len(x) != self._images:
            return self._net.observe(params, norm, x)
        return _moved(self._run(OBSERVE, x, self._given(params, norm)), norm)

    def _imitate(self, params: Params, norm: NormState, x: Tensor, target: Tensor) -> Imitated:
        if len(x) != self._images:
            return self._net.imitate(params, norm, x, target)
        learned = {name: params[name] for name in self._imitating}
        found = self._run(IMITATE, x, [*passed_in(learned, norm).values(), target])
        grads = dict(zip(learned, found, strict=False))
        return Imitated(grads, *_moved(found[len(grads) :], norm))

    def _given(self, params: Params, norm: NormState) -> list[Tensor]:
        return list(passed_in({**self._weights, **params}, norm).values())

    def _run(self, name: str, x: Tensor, given: list[Tensor]) -> Sequence[Tensor]:
        laid_out = x.contiguous(memory_format=self._net.memory_format)
        return self._runs[name](laid_out, [tensor.contiguous() for tensor in given])


def _heard(told: Sequence[Tensor]) -> Forward:
    logits, features, *drift = told
    return Forward(logits, features, drift[0] if drift else None)


def _moved(found: Sequence[Tensor], norm: NormState) -> tuple[Forward, NormState]:
    """Return the pass and the statistics after it, which come last."""
    names = list(flatten(norm))
    told, after = found[: len(found) - len(names)], found[len(found) - len(names) :]
    return _heard(told), rebuild(norm, dict(zip(names, after, strict=True)))
