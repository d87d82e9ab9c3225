"""RoTTA: a student that learns from its slow teacher on a balanced memory of recent images."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from adapters.base import Learned, Learner, Needs, Net
from adapters.errors import UnfitModelError
from adapters.functional import category_memory
from adapters.functional.augment import random_view
from adapters.functional.category_memory import CategoryMemory, Scoring
from adapters.functional.chance import generator_of, step_seed
from adapters.functional.entropy import entropy_above_floor
from adapters.functional.optim import OptimOptions
from adapters.functional.places import recall, spans
from adapters.learning.gradient_step import Learning, descend, observe_gradient, start
from adapters.options import option
from adapters.source import SourceModel, as_stored
from adapters.values import CopyStates, Forward, Noise, Params, PartState, Run


@dataclass(frozen=True)
class RoTTAState(PartState):
    """The student with its optimizer, the teacher's weight and bias by name, and the memory."""

    student: Learning
    teacher: Params
    memory: CategoryMemory


@dataclass(frozen=True, kw_only=True)
class RoTTAOptions(OptimOptions):
    """Options of the optimizer, the memory, the teacher and the augmentation."""

    capacity: int = option(64, "capacity of the memory, in images", low=1, high=1024)
    period: int = option(64, "images between two updates", low=1, high=1024)
    nu: float = option(0.001, "share of the student in the teacher at each update", low=0.0, high=1.0)
    age_weight: float = option(1.0, "weight of an image's age in the score for removal", low=0.0, high=100.0)
    entropy_weight: float = option(1.0, "weight of its entropy in the score for removal", low=0.0, high=100.0)
    augment: bool = option(True, "whether the student learns from augmented images")
    observe_stream: bool = option(
        False, "update the teacher's statistics from the stream as well as from the memory, as public code does"
    )


class RoTTA(Learner[RoTTAState]):
    """Descend the cross-entropy of the student with the teacher's answer on a memory; answer with the teacher.

    The memory gives every predicted class equal room and removes old and uncertain images; recent images weigh more in
    the loss. Statistics follow the memory only: the teacher observes its images, the student augmented views of them. A
    batch is answered before the updates that fall within it. Slow by design: renewing the statistics takes thousands of
    images. Dropout is off in updates, unlike in public code. Under UnMix-TNS public code also moves the components when
    it answers: `observe_stream`, the default there, does so. Without augmentation, a student that still equals its
    teacher has a zero gradient, whose rounding errors Adam amplifies.

    Remembers: student and teacher, weight and bias of the norm layers each; the optimizer's moments; images.
    Needs: norm layers with weight and bias.
    Reference: Yuan et al., Robust Test-Time Adaptation in Dynamic Scenarios, CVPR 2023 (section 3).

    Example:
        >>> from adapters import create
        >>> str(create("rotta").spec), create("unmix_tns+rotta").learner.options.lr
        ('rotta_bn+rotta', 1e-05)
    """

    name = "rotta"
    paper = "Yuan et al.: Robust Test-Time Adaptation in Dynamic Scenarios, CVPR 2023"
    remembers = "student and teacher, weight and bias of the norm layers each, with optimizer moments; 64 images"
    needs = Needs(affine=True, gradient=True)
    normalizer = "rotta_bn"
    pure_graph = False
    holds_inputs = True
    copies = ("student", "teacher")
    options_class = RoTTAOptions
    options: RoTTAOptions

    def check(self, source: SourceModel) -> None:
        """Refuse, in addition, inputs that are not images if views are augmented."""
        super().check(source)
        if self.options.augment and len(source.input_shape) != 3:
            raise UnfitModelError(
                f"{self.name} augments images of (channels, height, width), and this model's inputs are "
                f"{source.input_shape}; `augment=false` works"
            )

    def init(self, net: Net, generator: torch.Generator) -> RoTTAState:
        """Return a student and a teacher equal to the source, zero moments and an empty memory."""
        memory = category_memory.empty(self.options.capacity, net.input_shape, net.dtype)
        return RoTTAState(start(net.affine, self.options), net.affine, memory)

    def without_inputs(self, state: RoTTAState) -> RoTTAState:
        """Return the state with an empty memory."""
        return replace(state, memory=category_memory.emptied(state.memory))

    def draw(self, seed: int, steps: int, shape: torch.Size) -> Noise:
        """Draw the seed of this step's augmentations."""
        return {"seed": step_seed(seed, steps)}

    def step(self, net: Net, state: RoTTAState, norm: CopyStates, x: Tensor, noise: Noise) -> Learned[RoTTAState]:
        """Answer x (N, C, H, W), offer its images to the memory, and learn at the end of each period."""
        generator = generator_of(noise["seed"])
        forward, norm = self._answered(net, state, norm, x)
        finite = forward.logits.isfinite().all(1)  # the memory stores images by predicted class
        images, logits = as_stored(x[finite], net.value_range), forward.logits[finite]
        labels, entropies = logits.argmax(1), entropy_above_floor(logits)
        scoring = Scoring(net.classes, self.options.age_weight, self.options.entropy_weight)
        signals: dict[str, Tensor] = {}
        for rows, due in spans(int(state.memory.places.arrived), len(images), self.options.period):
            offered = images[rows], labels[rows], entropies[rows]
            state = replace(state, memory=category_memory.insert(state.memory, *offered, scoring))
            if due:
                state, norm, signals["loss"] = self._update(net, state, norm, generator)
        return Learned(forward, state, norm, {**signals, "memory_ratio": state.memory.places.filled})

    def answer(self, run: Run, state: RoTTAState, norm: CopyStates, x: Tensor) -> Forward:
        """Answer x (N, ...) with the teacher."""
        return run(state.teacher, norm["teacher"], x)

    def _answered(self, net: Net, state: RoTTAState, norm: CopyStates, x: Tensor) -> tuple[Forward, CopyStates]:
        if not self.options.observe_stream:
            return self.answer(net.held, state, norm, x), norm
        forward, teacher_norm = net.observe(state.teacher, norm["teacher"], x)
        return forward, {**norm, "teacher": teacher_norm}

    def _update(
        self, net: Net, state: RoTTAState, norm: CopyStates, generator: torch.Generator
    ) -> tuple[RoTTAState, CopyStates, Tensor]:
        """Train the student on the memory, and move the teacher towards the student; return the loss () too."""
        x = recall(state.memory.places, net.value_range).to(net.dtype)
        weights = category_memory.timeliness(state.memory)
        target, teacher_norm = net.observe(state.teacher, norm["teacher"], x)
        view = random_view(x, generator, net.value_range) if self.options.augment else x

        def timely_cross_entropy(forward: Forward) -> tuple[Tensor, Mapping[str, Tensor]]:
            each = -(target.logits.softmax(1) * forward.logits.log_softmax(1)).sum(1)
            loss = (weights * each).mean()
            return loss, {"loss": loss}

        params = state.student.params
        grads, other, _, student_norm = observe_gradient(net, params, norm["student"], view, timely_cross_entropy)
        student, nu = descend(state.student, grads, self.options), self.options.nu
        teacher = {name: (1 - nu) * p + nu * student.params[name] for name, p in state.teacher.items()}
        norms = {"student": student_norm, "teacher": teacher_norm}
        return replace(state, student=student, teacher=teacher), norms, other["loss"]
