"""From a row's name to its settings, by the row, the backbone's profile and the user."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from cdc_jax import config_file, grammar, spelling
from cdc_jax.config_type import ConfigDict
from cdc_jax.methods import defaults, rows
from cdc_jax.records import RowRecord


@dataclasses.dataclass(frozen=True)
class Choice:
    """A row with all its settings.

    Attributes:
      name: as the user wrote it, such as `cdc@views=flip`.
      row: the row's name.
      config: all settings, locked.
      changes: settings whose values differ from the row's, nested keys joined by dots.
    """

    name: str
    row: str
    config: ConfigDict
    changes: rows.Settings

    @property
    def title(self) -> str:
        """See `title`."""
        return title(self.name)

    @property
    def family_name(self) -> str:
        """A key of `families.FAMILIES`."""
        return rows.ROWS[self.row].family

    def defaults(self) -> dict[str, Any]:
        """The settings of the family before any row changes them."""
        return defaults.of_family(self.family_name).to_dict()

    def record(self, changes_images: bool) -> RowRecord:
        """The record of the row in results.json.

        Args:
          changes_images: see `Method`.
        """
        role = rows.ROWS[self.row].role
        return RowRecord(self.name, self.row, self.title, role, self.changes, changes_images)


def overrides(row: str) -> ConfigDict:
    """The settings of a row that a user may set. Every value is an open placeholder."""
    import ml_collections
    from ml_collections import config_dict

    config: Any = defaults.of_family(rows.ROWS[row].family)
    for key in config:
        open_part = config[key]
        if isinstance(open_part, ml_collections.ConfigDict):
            for name, value in open_part.items():
                open_part[name] = config_dict.placeholder(type(value))
        else:
            config[key] = config_dict.placeholder(type(open_part))
    return config


def configure(
    name: str,
    profile: str = "",
    user_settings: ConfigDict | None = None,
    unfamiliar_names: bool = False,
) -> Choice:
    """The settings of a row.

    Args:
      name: a key of `rows.ROWS`; or `row@key=value;key=value`, a row with settings changed, see
        `grammar`.
      profile: of the backbone, one of `rows.PROFILES`.
      user_settings: of `overrides`, for the row. An open setting takes the row's value.
      unfamiliar_names: whether the backbone has never read the task's class names and the task
        tests no other classes. A setting of the user still takes precedence.

    Raises:
      ValueError: there is no such row, profile or setting. A value has another type. A method that
        changes image features has cached views.
    """
    row, changes = split(name)
    if profile not in rows.PROFILES:
        raise ValueError(
            f"unknown profile {profile!r} in the model's config.json: choose one of {rows.PROFILES}"
        )
    row_config = defaults.of_family(rows.ROWS[row].family)
    small = rows.ROWS[row].small if profile == "small" else {}
    row_config.update_from_flattened_dict({**rows.ROWS[row].settings, **small})
    config = row_config.copy_and_resolve_references()
    user_keys = set()
    for key, value in config_file.flat(user_settings.to_dict() if user_settings else {}).items():
        if value is not None:
            config.update_from_flattened_dict({key: value})
            user_keys.add(key)
    config_file.assign(config, changes)
    user_keys |= {key for key, _ in changes}
    if unfamiliar_names:
        # Here, as scripts read rows before anything imports JAX.
        from cdc_jax.methods.families import FAMILIES

        family = FAMILIES[rows.ROWS[row].family]
        family.suit_unfamiliar_names(row_config)
        suited = config.copy_and_resolve_references()
        family.suit_unfamiliar_names(suited)
        suitable = config_file.flat(suited.to_dict()).items()
        config.update_from_flattened_dict({k: v for k, v in suitable if k not in user_keys})
    _check_cached_views(name, rows.ROWS[row].family, config)
    default, final = (config_file.flat(c.to_dict()) for c in (row_config, config))
    differing = {key: value for key, value in final.items() if value != default[key]}
    return Choice(name, row, config.lock(), differing)


def _check_cached_views(name: str, family: str, config: ConfigDict) -> None:
    from cdc_jax.methods.families import FAMILIES  # imports JAX, see `configure`

    views = config.cached_views
    if views < 0:
        raise ValueError(f"{name}: cached_views must be at least 0 (fresh views), got {views}")
    if views and FAMILIES[family].changes_images(config):
        raise ValueError(
            f"{name}: cached_views={views} keeps the image features of views, but this method "
            "changes image features in every step: set cached_views=0, or choose a method that "
            "learns on the text side only, such as coop"
        )


_ALL = [name for name, row in rows.ROWS.items() if row.role != "upper bound"]


def names(methods: str) -> list[str]:
    """The methods in a list separated by commas. A comma within brackets belongs to a value.

    >>> names("coop, cdc@views=crop(scale=(0.4,1))|flip")
    ['coop', 'cdc@views=crop(scale=(0.4,1))|flip']

    The entry `all` stands for every row but the upper bounds, which need the bundled world.

    Raises:
      ValueError: a name is empty, occurs twice, or begins with an unknown row.
    """
    entries = []
    for entry in grammar.split(methods, ","):
        name = entry.strip()
        entries += _ALL if name == "all" else [name]
    if not all(entries):
        raise ValueError(
            f"methods={methods!r} has an empty name: separate methods by one comma, as in "
            "methods=coop,cdc"
        )
    twice = sorted({name for name in entries if entries.count(name) > 1})
    if twice:
        raise ValueError(f"methods={methods!r} has {', '.join(twice)} twice: name each once")
    for name in entries:
        try:
            split(name)
        except ValueError as error:
            if "@" not in methods:
                raise
            raise ValueError(
                f"{error}. A comma ends a method: put a value with a comma within quotes"
            ) from None
    return entries


def split(name: str) -> tuple[str, list[tuple[str, str]]]:
    """The row at the start of a method's name, and the settings that the name changes.

    >>> split("cdc@prompts.templates=2;views=flip; jitter(hue=0.1)")
    ('cdc', [('prompts.templates', '2'), ('views', 'flip; jitter(hue=0.1)')])

    Raises:
      ValueError: there is no such row; the message names the nearest row. Or a part after the @ is
        no setting.
    """
    row, _, text = name.partition("@")
    if row not in rows.ROWS:
        near = spelling.nearest(row, rows.ROWS)
        raise ValueError(
            f"unknown method {row!r}: did you mean {near!r}? There are {', '.join(rows.ROWS)}"
        )
    parts = grammar.split(text, ";") if text else []
    before, changes = grammar.settings(parts, ";")
    for part in [*before, *(part for part in parts if not part.strip())]:
        raise ValueError(f"expected key=value, got {part!r} in {name!r}")
    return row, changes


def with_changes(row: str, changes: Mapping[str, Any]) -> str:
    """The name of a row with changed settings. Configuration files list studies by it.

    >>> with_changes("cdc", {"prompts.templates": 2, "prompts.phrases": "a photo, of a"})
    'cdc@prompts.templates=2;prompts.phrases="a photo, of a"'

    Args:
      row: a key of `rows.ROWS`.
      changes: setting -> value, nested keys joined by dots.
    """
    settings = ";".join(f"{key}={grammar.quoted(value)}" for key, value in changes.items())
    return f"{row}@{settings}" if settings else row


def title(name: str) -> str:
    """The name of a method in tables.

    >>> title("cdc@prompts.templates=2;head.kl_weight=0.1")
    'CDC, templates=2, kl_weight=0.1'
    """
    row, changes = split(name)
    return ", ".join(
        [rows.ROWS[row].title]
        + [f"{key.rpartition('.')[2]}={grammar.unquoted(value)}" for key, value in changes]
    )
