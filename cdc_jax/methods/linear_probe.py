"""The linear probe: multinomial logistic regression on frozen image features."""

import dataclasses
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from cdc_jax.backbone import Backbone
from cdc_jax.methods.family import Family
from cdc_jax.methods.method import Learned, Method
from cdc_jax.methods.support import Support
from cdc_jax.wording import Template


@dataclasses.dataclass(frozen=True, eq=False)
class LinearProbe(Method):
    """A row of weights for each class: z_k = w_k · f(x) / tau. The weights start at zero."""

    def covers(self, class_names: Sequence[str]) -> bool:
        """See `Method`."""
        return tuple(class_names) == self.class_names

    def initialize(self, key: jax.Array, backbone: Backbone, support: Support) -> Learned:
        """See `Method`."""
        del key, support
        shape = (1, len(self.class_names), backbone.sizes.embed_width)
        weights = jnp.zeros(shape, jnp.float32)
        return Learned({"classifier": weights} | self.head.initialize(), self.head.fixed())

    def classes(self, backbone: Backbone, names: Sequence[str], template: Template = "") -> None:
        """Returns None: the weights already belong to the classes."""
        del backbone, names, template

    def class_features(
        self,
        backbone: Backbone,
        learned: Learned,
        classes: None,
        image: Float[Array, "templates_or_1 batch embed"] | None = None,
    ) -> Float[Array, "templates classes embed"]:
        """The weights, which are not normalised."""
        del backbone, classes, image
        return learned.trained["classifier"]


LINEAR_PROBE = Family(LinearProbe)
