"""Prices by the sizes that a plan states, for models and data that are not at hand."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ticketry.errors import ConfigError
from ticketry.recipes import Recipe
from ticketry.search import Sizes
from ticketry.steps import Context
from ticketry.studies.spec import ArmSpec, StudySpec
from ticketry.tasks.registry import joint_parts


@dataclass(frozen=True)
class NominalScene:
    """What a plan says of a task and the model; as much of a scene as pricing needs."""

    task: str
    recipe: Recipe
    sizes: Sizes
    tokens: float
    prunable: int
    shapes: Mapping[str, tuple[int, ...]]
    units: None = None
    input_axes: None = None
    head: None = None
    head_key: None = None

    @property
    def context(self) -> Context:
        """A context of no real data: its key is used for bookkeeping alone."""
        return Context(
            base_name="nominal",
            base_revision=None,
            base_sha256="",
            data_sha256=self.task,
            scope=(),
            recipe=self.recipe.to_json(),
            device="cpu",
            threads=1,
            versions={},
        )

    @property
    def context_key(self) -> str:
        """The context's fingerprint."""
        return self.context.key

    @property
    def flops_per_pass(self) -> float:
        """FLOPs of one forward and backward pass: six for each weight in scope and token."""
        return 6.0 * self.prunable * self.tokens


class NominalScenes:
    """Stands in for :class:`ticketry.studies.grid.Scenes`; loads nothing.

    Raises:
        ConfigError: the plan states no sizes, or not of every task.
    """

    def __init__(self, spec: StudySpec) -> None:
        self.spec = spec
        self._made: dict[str, NominalScene] = {}
        lacking = [task for task in spec.tasks if task not in spec.sizes]
        if not spec.prunable or lacking:
            what = ", ".join((["prunable"] if not spec.prunable else []) + lacking)
            raise ConfigError(
                f"the plan states no sizes of {what}, so it cannot be priced without its model "
                "and data; add `prunable:` and `sizes: {TASK: {train, validation, test, tokens}}`, "
                "or leave --nominal out."
            )

    def of(self, task: str, arm: ArmSpec | None = None) -> Any:
        """Return a task's scene, with the recipe of the plan or of the arm."""
        spec = self.spec.find_spec(task, arm, None if arm is None else arm.sparsities[0])
        key = f"{task} {spec.recipe}"
        if key not in self._made:
            stated = self.spec.sizes[task]
            train = int(stated["train"])
            if spec.recipe.train_samples is not None:
                train = min(train, spec.recipe.train_samples)
            texts = len(joint_parts(spec.data.task or "")) or 1  # seen in one pass
            tokens, of_images = float(stated["tokens"]), spec.recipe.image_size_px is not None
            self._made[key] = NominalScene(
                task,
                spec.recipe,
                Sizes(train, int(stated["validation"]), int(stated["test"])),
                tokens if of_images else min(tokens, spec.recipe.max_length_tokens * texts),
                self.spec.prunable,
                {"weights": (self.spec.prunable, 1)},
            )
        return self._made[key]

    def target(self, task: str, arm: ArmSpec) -> Any:
        """Return what an arm's masks are fine-tuned on."""
        return self.of(task)

    @property
    def all(self) -> tuple[Any, ...]:
        """Every scene so far."""
        return tuple(self._made.values())
