"""Compiled forward and backward passes, for learners that run many of them in a step."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import ClassVar

from torch import Tensor

from adapters import AdapterState
from adapters.joint_step import Stepped
from adapters.state import flatten, rebuild
from adapters.values import Forward, Imitated, NormState, Params
from service.models.kernels.graphs.export import passed_in
from service.models.kernels.kernel import MACHINE_CODE, Kind, OneStream, OwnSteps
from service.models.kernels.native.step import load

READ, OBSERVE, IMITATE = "read.pt2", "observe.pt2", "imitate.pt2"
"""The packages of the three passes in a job's folder."""


class NativePasses(OneStream):
    """Takes a pipeline's steps with passes that `compile` has compiled. They equal the network's own up to rounding.

    Args:
        folder: The folder of the packages. It may be removed afterwards.
        own: The pipeline's own steps.
        images: The compiled batch size. The network itself runs batches of other sizes.
    """

    kind: ClassVar[Kind] = MACHINE_CODE

    def __init__(self, folder: Path, own: OwnSteps, images: int) -> None:
        self._runs = {name: load(folder / name) for name in (READ, OBSERVE, IMITATE)}
        self._images = images
        self._net = own.fit.net
        self._weights = self._net.weights
        self._imitating = list(own.pipeline.learner.imitating(self._net))
        self._own = replace(own, fit=replace(own.fit, net=self._net.run_by(self._observe, self._read, self._imitate)))

    def step(self, state: AdapterState, x: Tensor) -> Stepped:
        """Answer x (N, *input_shape) and learn from it; `state` is not changed."""
        return self._own.step(state, x)

    def _read(self, params: Params, norm: NormState, x: Tensor) -> Forward:
        if len(x) != self._images:
            return self._net.forward(params, norm, x)
        return _forward(self._run(READ, x, self._tensors(params, norm)))

    def _observe(self, params: Params, norm: NormState, x: Tensor) -> tuple[Forward, NormState]:
        if len(x) != self._images:
            return self._net.observe(params, norm, x)
        return _forward_and_norm(self._run(OBSERVE, x, self._tensors(params, norm)), norm)

    def _imitate(self, params: Params, norm: NormState, x: Tensor, target: Tensor) -> Imitated:
        if len(x) != self._images:
            return self._net.imitate(params, norm, x, target)
        learned = {name: params[name] for name in self._imitating}
        outputs = self._run(IMITATE, x, [*passed_in(learned, norm).values(), target])
        grads = dict(zip(learned, outputs, strict=False))
        return Imitated(grads, *_forward_and_norm(outputs[len(grads) :], norm))

    def _tensors(self, params: Params, norm: NormState) -> list[Tensor]:
        return list(passed_in({**self._weights, **params}, norm).values())

    def _run(self, name: str, x: Tensor, tensors: list[Tensor]) -> Sequence[Tensor]:
        laid_out = x.contiguous(memory_format=self._net.memory_format)
        return self._runs[name](laid_out, [tensor.contiguous() for tensor in tensors])


def _forward(outputs: Sequence[Tensor]) -> Forward:
    logits, features, *drift = outputs
    return Forward(logits, features, drift[0] if drift else None)


def _forward_and_norm(outputs: Sequence[Tensor], norm: NormState) -> tuple[Forward, NormState]:
    """Split a pass's outputs into its results and the statistics after it, which come last."""
    names = list(flatten(norm))
    results, after = outputs[: len(outputs) - len(names)], outputs[len(outputs) - len(names) :]
    return _forward(results), rebuild(norm, dict(zip(names, after, strict=True)))
