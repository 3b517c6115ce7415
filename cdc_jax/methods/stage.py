"""A stage of training, and the arrays that it changes."""

import dataclasses
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import flax.struct
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Int

from cdc_jax.backbone import Backbone
from cdc_jax.config_type import ConfigDict

if TYPE_CHECKING:
    from cdc_jax.methods.method import Method

PyTree = Any


@flax.struct.dataclass
class Learned:
    """The arrays of a method, by the names of its parts.

    Attributes:
      trained: arrays that are differentiated. The optimiser and checkpoints hold them.
      fixed: arrays that are computed once from the support, such as caches. They are never
        differentiated. An exported model holds both kinds.
    """

    trained: PyTree
    fixed: PyTree

    def part(self, name: str) -> "Learned":
        """The trained and fixed arrays of one part; empty if the method lacks the part."""
        return Learned(self.trained.get(name, {}), self.fixed.get(name, {}))


@dataclasses.dataclass(frozen=True)
class Best:
    """Keeps the trained parts that are most accurate on the validation images.

    A task without validation images keeps the last. Only methods that do not change image features
    can keep the best: each check takes the images' frozen features.

    Attributes:
      every: steps between two checks; 0 checks at the end of each epoch.
      first: steps before the first check; 0 is `every`.
      later_wins: whether the later of two equally accurate checks is kept.
    """

    every: int = 0
    first: int = 0
    later_wins: bool = False

    def initial(self, trained: dict[str, PyTree]) -> dict[str, PyTree]:
        """What is kept before the first check."""
        return {"trained": trained, "correct": jnp.asarray(-1, jnp.int32)}

    def keep(
        self,
        done: Int[Array, ""],
        per_epoch: int,
        check: Callable[[], Int[Array, ""]],
        kept: dict[str, PyTree],
        trained: dict[str, PyTree],
    ) -> dict[str, PyTree]:
        """What is kept after a step.

        Args:
          done: number of the stage's steps that are done.
          per_epoch: steps of an epoch.
          check: counts the validation images that the trained parts classify correctly. It runs in
            the steps that are checked.
          kept: what was kept before, of `initial` or `keep`.
          trained: the parts after the step.
        """
        every = self.every or per_epoch
        due = (done >= (self.first or every)) & ((done - self.first) % every == 0)
        correct = jax.lax.cond(due, check, lambda: jnp.asarray(-1, jnp.int32))
        wins = correct >= kept["correct"] if self.later_wins else correct > kept["correct"]
        found = {"trained": trained, "correct": correct}
        return jax.tree.map(lambda new, old: jnp.where(due & wins, new, old), found, kept)


@dataclasses.dataclass(frozen=True, eq=False)
class Stage:
    """A stage of training, with its own optimiser state and schedule.

    Attributes:
      method: the method of this stage. The method of the last stage predicts.
      optimizer: `name`, rates, `weight_decay`, `batch_size` and `epochs`, see `optimizer.make`.
      trains: parts of `Learned.trained` that change; None is all.
      begin: (backbone, learned, classes) -> the trained parts that the stage starts from; None
        keeps the parts of the stage before.
      update: the update rule; None takes the rule of `optimizer.make`.
      best: keeps the most accurate parts in place of the last, see `Best`.
      average: a weight for each epoch's end. The stage then ends with the average of the trained
        parts by these weights, which must sum to 1; empty takes the last.
      combine: (gradients by group of terms, see `Term`) -> the gradient. On several devices the
        gradients are means over all images. None takes the gradient of the group "loss".
    """

    method: "Method"
    optimizer: ConfigDict
    trains: tuple[str, ...] | None = None
    begin: Callable[[Backbone, Learned, PyTree], dict[str, PyTree]] | None = None
    update: optax.GradientTransformation | None = None
    best: Best | None = None
    average: tuple[float, ...] = ()
    combine: Callable[[dict[str, PyTree]], PyTree] | None = None

    def __post_init__(self):
        if self.best and (self.average or self.method.changes_images):
            raise ValueError(
                "a stage keeps its best parts only if it does not average them and its method does "
                "not change image features"
            )
        if self.average and self.optimizer.get("steps"):
            raise ValueError(
                f"a stage averages the ends of its epochs, but optimizer.steps="
                f"{self.optimizer.steps} sets its length in steps: set optimizer.steps=0"
            )
        epochs = self.optimizer.epochs
        if self.average and (len(self.average) != epochs or abs(sum(self.average) - 1) > 1e-6):
            raise ValueError(
                f"an average over {epochs} epochs needs as many weights that sum to 1, got "
                f"{self.average}"
            )

    def gradient(self, gradients: dict[str, PyTree]) -> PyTree:
        """The gradient that the update rule gets.

        Args:
          gradients: by group of terms.

        Raises:
          ValueError: the method's terms have several groups, and the stage does not combine them.
        """
        if self.combine:
            return self.combine(gradients)
        if len(gradients) > 1:
            raise ValueError(
                f"the method's terms have the groups {sorted(gradients)}: give its stage a "
                "function `combine` of their gradients"
            )
        return gradients["loss"]

    def split(self, trained: dict[str, PyTree]) -> tuple[dict[str, PyTree], dict[str, PyTree]]:
        """The parts that change in this stage, and the parts that stay.

        Raises:
          ValueError: the stage trains a part that the method does not have.
        """
        names = tuple(trained) if self.trains is None else self.trains
        if unknown := set(names) - set(trained):
            raise ValueError(f"a stage trains {sorted(unknown)}, the method has {sorted(trained)}")
        moving = {name: part for name, part in trained.items() if name in names}
        return moving, {name: part for name, part in trained.items() if name not in names}
