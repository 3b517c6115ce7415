"""A row's settings by attribute and key, without ml_collections, which a machine may lack."""

from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any

from flax.traverse_util import flatten_dict, unflatten_dict

from cdc_jax.methods import defaults, rows


class Settings(SimpleNamespace):
    """Settings, some of which are `Settings` themselves."""

    def __getattr__(self, name: str) -> Any:  # called for what is missing; `ConfigDict` has it
        raise AttributeError(f"there is no setting {name!r}")

    def __getitem__(self, key: str) -> Any:
        return getattr(self, key)

    def get(self, key: str, default: Any = None) -> Any:
        """The setting, or the default if there is no such setting."""
        return getattr(self, key, default)


def configure(row: str, changes: Mapping[str, Any] | None = None) -> Settings:
    """What `methods.configure(row).config` holds at the published size.

    Args:
      row: a key of `rows.ROWS`.
      changes: settings to set on top, dots reaching into the parts.

    Raises:
      ValueError: a change of a setting that the row does not have.
    """
    chosen = rows.ROWS[row]
    family = defaults.OF_FAMILIES[chosen.family] | defaults.SETTINGS
    flat = flatten_dict(family, sep=".") | dict(chosen.settings)
    # A head's shift is computed of the shots, and is no setting of its row.
    if unknown := set(changes or {}) - {*flat, "head.shift"}:
        raise ValueError(f"{row} has no setting {', '.join(sorted(unknown))}")
    return _nested(unflatten_dict({**flat, **(changes or {})}, sep="."))


def _nested(tree: Mapping[str, Any]) -> Settings:
    return Settings(**{k: _nested(v) if isinstance(v, dict) else v for k, v in tree.items()})
