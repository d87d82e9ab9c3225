"""Compiles one pipeline's step: `python -m service.models.kernels.native.compile`, with a job on standard input.

It runs as a separate process, because compiling runs a minute of Python code that would block the server's.
"""

import json
import os
import sys
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn
from torch._inductor import aoti_compile_and_package
from torch.fx.experimental.proxy_tensor import make_fx

from adapters import create
from adapters.network.module_net import ModuleNet
from adapters.state import flatten
from adapters.values import Params
from service.errors import UnfitError
from service.models.bundle import read_bundle
from service.models.hosted import load_source
from service.models.kernels.capabilities import capabilities
from service.models.kernels.graphs.export import Pass, Step, passed_in
from service.models.kernels.kernel import OwnSteps
from service.models.kernels.native.passes import IMITATE, OBSERVE, READ
from service.models.kernels.native.step import SIGNALS, STEP
from service.models.kernels.native.traced import Imitation, Reading
from service.models.process_job import Job

NICENESS = 10
"""The process's niceness, so that serving has priority."""


def do(job: Job) -> None:
    """Compile the step of a bundle's pipeline.

    Raises:
        AcclimateError: If the bundle or the pipeline is invalid.
        Exception: One of many kinds from PyTorch, if the step cannot be compiled.
    """
    source = load_source(read_bundle(job.bundle), job.allow_factories, job.threads)
    adapter = create(job.spec, **job.options)
    can = capabilities(adapter, adapter.prepare(source))
    if can.own is None:
        raise UnfitError(can.native)
    compile_for(can.own, job.images, job.folder)


def compile_for(own: OwnSteps, images: int, folder: Path) -> None:
    """Compile a pipeline's step for batches of `images` images: its passes if it runs many, else the whole step.

    Raises:
        Exception: One of many kinds from PyTorch, if it cannot be compiled.
    """
    net, learner, initial = own.fit.net, own.pipeline.learner, own.fit.initial
    low, high = net.value_range
    generator = torch.Generator().manual_seed(0)
    x = low + (high - low) * torch.rand(images, *net.input_shape, generator=generator)
    x = x.contiguous(memory_format=net.memory_format)
    if learner.reads_often:
        _compile_passes(net, learner.imitating(net), x, folder)
    else:
        _compile(Step(own), x, flatten(initial), folder / STEP)
        signals = list(own.step(initial, x)[0].signals)
        (folder / SIGNALS).write_text(json.dumps(signals), encoding="utf-8")


def _compile_passes(net: ModuleNet, imitating: Params, x: Tensor, folder: Path) -> None:
    """Compile a network's three passes; the parameters `imitating` learn in the imitating one."""
    weights, target = net.weights, torch.full((len(x), net.classes), 1 / net.classes, dtype=net.dtype)
    tensors = passed_in(weights, net.initial_norm)
    _compile(Reading(net.pure, weights), x, tensors, folder / READ)
    _compile(Pass(net.pure, weights), x, tensors, folder / OBSERVE)
    learned = {**passed_in(imitating, net.initial_norm), "target": target}
    _compile(Imitation(net.pure, imitating), x, learned, folder / IMITATE)


def _compile(function: nn.Module, x: Tensor, named: Mapping[str, Tensor], package: Path) -> None:
    """Compile a function of x and the named tensors. All other tensors that it uses become constants of the package."""
    tensors = [tensor.detach().clone() for tensor in named.values()]
    traced = make_fx(function)(x, tensors)
    with torch.no_grad():
        exported = torch.export.export(_Flat(traced), (x, tensors), strict=False)
        aoti_compile_and_package(
            exported, package_path=str(package), inductor_configs={"freezing": True, "compile_threads": 1}
        )


class _Flat(nn.Module):
    """A traced function as a module that returns a tuple, as `torch.export` requires."""

    def __init__(self, traced: nn.Module) -> None:
        super().__init__()
        self._traced = traced

    def forward(self, x: Tensor, state: list[Tensor]) -> tuple[Tensor, ...]:
        return tuple(self._traced(x, state))


def main() -> None:
    """Run the job that is read from standard input."""
    job = Job.from_json(sys.stdin.read())
    os.nice(NICENESS)
    torch.set_num_threads(job.threads)
    do(job)


if __name__ == "__main__":
    main()
