"""Finds the files of a CLIP in the package, in a folder, or on the Hugging Face hub."""

import re
from collections.abc import Collection
from pathlib import Path

from cdc_jax import schema

_WORLD = Path(__file__).parent / "world"
SETTINGS = (
    "config.json",
    "preprocessor_config.json",
    "processor_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "vocab.json",
    "merges.txt",
)
# Best first; transformers calls files of another dtype model.fp16.safetensors, for instance.
WEIGHTS = (
    r"model\.safetensors",
    r"model\.safetensors\.index\.json",
    r"model\.\w+\.safetensors",
    r"model\.safetensors\.index\.\w+\.json",
    r"flax_model\.msgpack",
)
_INDEX = schema.record(weight_map=schema.table(schema.text(empty=False, longest=255), least=1))
DAMAGED = "copy the file again from where the model came"
"""The remedy for a model's file that can't be used."""

_PUBLISHED = {
    "ViT-B/32": "openai/clip-vit-base-patch32",
    "ViT-B/16": "openai/clip-vit-base-patch16",
    "ViT-L/14": "openai/clip-vit-large-patch14",
    "ViT-L/14@336px": "openai/clip-vit-large-patch14-336",
    "ViT-L/14-336": "openai/clip-vit-large-patch14-336",
    "ViT-H/14": "laion/CLIP-ViT-H-14-laion2B-s32B-b79K",
    "ViT-g/14": "laion/CLIP-ViT-g-14-laion2B-s12B-b42K",
    "ViT-bigG/14": "laion/CLIP-ViT-bigG-14-laion2B-39B-b160k",
}
"""Names that OpenAI's and open_clip's packages give to models -> ids of the hub."""


def find(name_or_path: str | Path, weights: bool = True) -> Path:
    """A folder with a CLIP's files. A model of the hub is downloaded into the hub's cache.

    Args:
      name_or_path: "world", a folder ("./world" if it has that name), or a model id of the hub,
        which may end in `@` and a revision: a branch, a tag or a commit.
      weights: whether to download the weights beside the small files.

    Raises:
      FileNotFoundError: there is no model of that name, or it has no readable weights.
      PermissionError: a gated model whose terms were not accepted.
      ConnectionError: the hub can't be reached and its cache does not hold the model.
    """
    if str(name_or_path) == "world":
        if not _WORLD.is_dir():
            raise FileNotFoundError(
                f"the bundled model 'world' is missing from this installation ({_WORLD}): "
                "reinstall the package, or train it: "
                "python -m cdc_jax pretrain --config=pretrain.py"
            )
        return _WORLD
    folder = Path(name_or_path).expanduser()
    if folder.is_dir():
        return folder
    name = str(name_or_path)
    if folder.exists():
        raise FileNotFoundError(f"{name} is a file: give the folder that holds the model's files")
    if hint := _hint(name):
        raise FileNotFoundError(f"{schema.shown(name)} is neither a folder nor a hub's id: {hint}")
    from cdc_jax.clip import hub_download  # imports the hub's client, which local models don't need

    repo, _, revision = name.partition("@")
    return hub_download.download(repo, revision or None, weights)


def weights_files(folder: Path) -> list[Path]:
    """The best of a folder's weights files; several if they are sharded.

    Raises:
      FileNotFoundError: no weights in a format that is safe to read, or a shard is missing.
      ValueError: the index of the shards is broken; a file is not a regular one; or nothing says
        which of several variants to take.
    """
    best = folder / best_weights([file.name for file in folder.iterdir()], folder)
    if best.suffix != ".json":
        schema.require_regular(best)
        return [best]
    index = schema.read_json(best, _INDEX, remedy=DAMAGED)
    shards = sorted(set(index["weight_map"].values()))
    if wrong := [name for name in shards if Path(name).name != name or not name.isprintable()]:
        raise ValueError(
            f"{best}: weight_map must name files beside it, got {schema.shown(wrong)}; {DAMAGED}"
        )
    if missing := [shard for shard in shards if not (folder / shard).exists()]:
        raise FileNotFoundError(
            f"{best} names {len(missing)} shards that are missing: {', '.join(missing[:3])}"
            f"{', …' if missing[3:] else ''}; copy them there"
        )
    for shard in shards:
        schema.require_regular(folder / shard)
    return [folder / shard for shard in shards]


def _hint(name: str) -> str:
    """What to give in place of a name that other packages use; "" for any other name."""
    if name.startswith("hf-hub:"):
        return (
            f"give {name.removeprefix('hf-hub:')!r}, where that holds a config.json in "
            "transformers' format"
        )
    if name.startswith(("http://", "https://")):
        parts = name.rstrip("/").split("/")
        return f"give {'/'.join(parts[3:5])!r}" if len(parts) > 4 else "give OWNER/MODEL"
    if re.fullmatch(r"(?:clip[-_])?rn\d+(?:x\d+)?(?:-quickgelu)?", name.lower()):
        return (
            "a CLIP with a ResNet is not supported, because prompts need a transformer's tokens: "
            f"give a ViT's id, such as {_PUBLISHED['ViT-B/16']!r}"
        )

    def plain(name: str) -> str:
        name = name.lower().removesuffix("px").removesuffix("-quickgelu")
        return re.sub(r"[/@_]", "-", name)

    ids = {plain(alias): repo for alias, repo in _PUBLISHED.items()}
    return f"give {ids[plain(name)]!r}" if plain(name) in ids else ""


def best_weights(names: Collection[str], where: str | Path) -> str:
    """The best of the names of weights files.

    Raises:
      FileNotFoundError: no name is that of weights in a format that is safe to read.
      ValueError: nothing says which of several variants to take.
    """
    for pattern in WEIGHTS:
        files = sorted(name for name in names if re.fullmatch(pattern, name))
        if len(files) > 1:
            raise ValueError(
                f"{where} has {' and '.join(files)}, and nothing says which to take: copy the "
                "folder with one of them"
            )
        if files:
            return files[0]
    raise FileNotFoundError(
        f"{where} has no model.safetensors (whole or sharded) and no flax_model.msgpack. Pickled "
        "weights (pytorch_model.bin) are never loaded, because opening them can run any code. If "
        "you trust them, convert them once where PyTorch is installed: "
        "transformers.CLIPModel.from_pretrained(SOURCE).save_pretrained(FOLDER), and copy the "
        "model's other files to FOLDER"
    )
