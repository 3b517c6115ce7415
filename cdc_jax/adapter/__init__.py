"""An adapter: what a method computes, put together from its parts.

The one place where prompts, losses and heads meet. What the parts are is the method's
configuration: `calibrate` and `create` read it, `Adapter` computes.
"""

from cdc_jax.adapter.assembly import calibrate, create
from cdc_jax.adapter.model import Adapter, Classes, hand_crafted_features, similarities

__all__ = ["Adapter", "Classes", "calibrate", "create", "hand_crafted_features", "similarities"]
