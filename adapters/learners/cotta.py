"""CoTTA: a student learns from its slow teacher, and randomly chosen weights return to the source at each step."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from adapters.base import Learned, Learner, Needs, Net
from adapters.functional.augment import random_view
from adapters.functional.chance import generator_of, step_seed
from adapters.functional.optim import OptimOptions
from adapters.learning.gradient_step import Learning, descend, start
from adapters.options import option
from adapters.source import SourceImages, SourceModel
from adapters.values import CopyStates, Forward, Noise, NormState, Params, PartState, Run

THRESHOLD_ARTEFACT = "cotta.threshold"
USUAL_THRESHOLD = 0.92
"""The paper's threshold for CIFAR-10."""


@dataclass(frozen=True)
class CoTTAState(PartState):
    """The student with its optimizer, and the teacher's parameters by name."""

    student: Learning
    teacher: Params


@dataclass(frozen=True, kw_only=True)
class CoTTAOptions(OptimOptions):
    """Options of the optimizer, the teacher, the augmentation and the stochastic restore."""

    parameters: Literal["all", "norm"] = option("all", "which parameters learn: all, or those of norm layers")
    teacher_momentum: float = option(0.999, "share of the teacher that stays at each step", low=0.0, high=1.0)
    restore: float = option(0.01, "probability that a weight returns to its source value", low=0.0, high=1.0)
    threshold: float | None = option(
        None, "augment if the source model's mean confidence is below; calibrated, or 0.92", low=0.0, high=1.0
    )
    augmentations: int = option(32, "teacher passes over augmented images", low=1, high=256)
    observe_views: bool = option(
        False, "update the teacher's statistics from augmented images too, as public code does"
    )


class CoTTA(Learner[CoTTAState]):
    """Descend the cross-entropy of the student with the teacher's answer; answer with the teacher.

    If the source model is uncertain about the batch, the teacher's answer is its mean logits over augmented images. The
    teacher follows the student slowly; then each weight of the student returns to its source value with a small
    probability. The most expensive method: 35 passes if it augments, else 3. Each network copy observes the raw batch
    once. With `observe_views` augmented passes update the statistics too, as in public code. Under batch statistics
    this makes no difference to a step's answer. It is the default under `unmix_tns`, where it lowers the error by 10
    points on CIFAR-10-C in correlated order.

    Remembers: student and teacher, all parameters each; the optimizer's moments.
    Needs: gradients.
    Reference: Wang et al., Continual Test-Time Domain Adaptation, CVPR 2022 (eqs. 1-8).

    Example:
        >>> from adapters import create
        >>> str(create("cotta").spec), create("cotta").pure_graph
        ('batch+cotta', False)
    """

    name = "cotta"
    paper = "Wang et al.: Continual Test-Time Domain Adaptation, CVPR 2022"
    remembers = "student and teacher, all parameters each, with the student's optimizer moments"
    needs = Needs(gradient=True)
    artefact = "cotta"
    pure_graph = False
    copies = ("student", "teacher", "anchor")
    options_class = CoTTAOptions
    options: CoTTAOptions

    @property
    def reads_often(self) -> bool:
        """True if the teacher's many passes over views leave its statistics unchanged."""
        return not self.options.observe_views

    def imitating(self, net: Net) -> Params:
        """Return the source values of the parameters that the student learns."""
        return net.weights if self.options.parameters == "all" else net.affine

    def degraded(self, source: SourceModel) -> str:
        """Return a note if the threshold is the paper's, because none was calibrated or set."""
        if self.options.threshold is not None or source.has_artefact(self.artefact):
            return ""
        return f"cotta's confidence threshold of {USUAL_THRESHOLD} is not calibrated (`acclimate calibrate` does it)"

    def calibrate(
        self, net: Net, data: SourceImages, batch: int, advance: Callable[[float], None]
    ) -> Mapping[str, Tensor]:
        """Return the threshold: the 5 % quantile of the confidence on source images, minus 0.05 (as in public code)."""
        batches = [x for x, _ in data.batches(batch)]
        confidences = []
        for x in batches:
            confidences.append(net.forward({}, net.initial_norm, x).logits.softmax(1).amax(1))
            advance(1 / len(batches))
        return {"threshold": (torch.cat(confidences).quantile(0.05) - 0.05).clamp_min(0)}

    def init(self, net: Net, generator: torch.Generator) -> CoTTAState:
        """Return a student and a teacher equal to the source, and zero moments."""
        source = self.imitating(net)
        return CoTTAState(start(source, self.options), source)

    def draw(self, seed: int, steps: int, shape: torch.Size) -> Noise:
        """Draw the seed of this step's augmentations and restores."""
        return {"seed": step_seed(seed, steps)}

    def step(self, net: Net, state: CoTTAState, norm: CopyStates, x: Tensor, noise: Noise) -> Learned[CoTTAState]:
        """Learn from the teacher's answer to x (N, C, H, W), and return that answer."""
        generator = generator_of(noise["seed"])
        anchor, anchor_norm = net.observe({}, norm["anchor"], x)
        plain, teacher_norm = net.observe(state.teacher, norm["teacher"], x)
        confidence = anchor.logits.softmax(1).amax(1).mean()
        unsure = bool(confidence < self._threshold(net))
        target = plain.logits
        if unsure:
            target, teacher_norm = self._augmented(net, state.teacher, norm["teacher"], teacher_norm, x, generator)
        imitated = net.imitate(state.student.params, norm["student"], x, target.softmax(1))
        student = descend(state.student, imitated.grads, self.options)
        keep = self.options.teacher_momentum
        teacher = {name: keep * p + (1 - keep) * student.params[name] for name, p in state.teacher.items()}
        restored = Learning(self._restored(student.params, self.imitating(net), generator), student.optimizer)
        norms = {"student": imitated.norm, "teacher": teacher_norm, "anchor": anchor_norm}
        signals = {"augmented_ratio": torch.tensor(float(unsure))}
        return Learned(Forward(target, plain.features, plain.drift), CoTTAState(restored, teacher), norms, signals)

    def answer(self, run: Run, state: CoTTAState, norm: CopyStates, x: Tensor) -> Forward:
        """Answer x (N, ...) with the teacher."""
        return run(state.teacher, norm["teacher"], x)

    def _threshold(self, net: Net) -> float:
        if self.options.threshold is not None:
            return self.options.threshold
        return float(net.artefacts.get(THRESHOLD_ARTEFACT, torch.tensor(USUAL_THRESHOLD)))

    def _augmented(
        self, net: Net, teacher: Params, before: NormState, after: NormState, x: Tensor, generator: torch.Generator
    ) -> tuple[Tensor, NormState]:
        """Return the teacher's mean logits (N, C) over augmented images, and its new statistics.

        Each view is normalised like the raw batch, from the statistics `before` it. With `observe_views` each view
        instead starts from the statistics that the one before it has updated, beginning with `after`.
        """
        total = torch.zeros(())
        for _ in range(self.options.augmentations):
            view = random_view(x, generator, net.value_range)
            if self.options.observe_views:
                forward, after = net.observe(teacher, after, view)
            else:
                forward = net.forward(teacher, before, view)
            total = total + forward.logits
        return total / self.options.augmentations, after

    def _restored(self, params: Params, source: Params, generator: torch.Generator) -> Params:
        if not self.options.restore:
            return params
        return {
            name: torch.where(torch.rand(p.shape, generator=generator) < self.options.restore, source[name], p)
            for name, p in params.items()
        }
