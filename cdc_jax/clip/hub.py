"""Where a CLIP's files come from: the package, a folder, or the Hugging Face hub."""

import contextlib
import json
from collections.abc import Collection
from pathlib import Path
from typing import Any

import huggingface_hub
from huggingface_hub import constants, errors

_WORLD = Path(__file__).parent / "world"
_SETTINGS = (
    "config.json",
    "preprocessor_config.json",
    "processor_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "vocab.json",
    "merges.txt",
)
_WEIGHTS = ("model.safetensors", "model.safetensors.index.json", "flax_model.msgpack")  # best first


def find(name_or_path: str | Path, weights: bool = True) -> Path:
    """A folder with a CLIP's files, downloaded if need be and then kept in the hub's cache.

    Args:
      name_or_path: "world", a folder ("./world" if it has that name), or a model id of the hub.
      weights: download them, too, and not only the small files beside them.

    Raises:
      FileNotFoundError: nothing of that name, or no weights that can be read.
      PermissionError: a gated model whose terms were not accepted.
      ConnectionError: the hub can't be reached and its cache does not hold the model.
    """
    if str(name_or_path) == "world":
        if not _WORLD.is_dir():
            raise FileNotFoundError(
                f"the embedded model 'world' is missing from this installation ({_WORLD}): "
                "reinstall the package, or train the model by experiments/pretrain.py"
            )
        return _WORLD
    folder = Path(name_or_path).expanduser()
    if not folder.is_dir():
        folder = _download(str(name_or_path), weights)
    return folder


def weights_files(folder: Path) -> list[Path]:
    """The best of a folder's weights files; several if they are sharded.

    Raises:
      FileNotFoundError: no weights in a format that is safe to read, or a shard is missing.
      ValueError: the index of the shards is broken.
    """
    best = folder / _best_weights([file.name for file in folder.iterdir()], folder)
    if not best.name.endswith(".index.json"):
        return [best]
    shards = sorted(set(read_json(best).get("weight_map", {}).values()))
    if not shards or any(Path(shard).name != shard for shard in shards):
        raise ValueError(f"the weight_map of {best} must name files beside it, got {shards}")
    if missing := [shard for shard in shards if not (folder / shard).is_file()]:
        raise FileNotFoundError(f"{best} names shards that are missing: {', '.join(missing)}")
    return [folder / shard for shard in shards]


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file.

    Raises:
      FileNotFoundError: no such file.
      ValueError: not a JSON object.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path.name} is missing from {path.parent}")
    try:
        contents = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is not JSON: {error}") from error
    if not isinstance(contents, dict):
        raise ValueError(f"{path} must hold a JSON object, not {type(contents).__name__}")
    return contents


def _best_weights(names: Collection[str], where: str | Path) -> str:
    for name in _WEIGHTS:
        if name in names:
            return name
    raise FileNotFoundError(
        f"{where} has no {_WEIGHTS[0]} (whole or sharded) and no {_WEIGHTS[-1]}. Pickled weights "
        "(pytorch_model.bin) are never loaded, because opening them can run any code. If you trust "
        "them, convert them once where PyTorch is installed: "
        "transformers.CLIPModel.from_pretrained(SOURCE).save_pretrained(FOLDER), and copy the "
        "model's other files to FOLDER"
    )


def _download(repo: str, weights: bool) -> Path:
    """Fetches the files that are needed, of the weights only the best, into the hub's cache."""
    try:
        try:
            info = huggingface_hub.HfApi().model_info(repo, timeout=10)
        except (errors.RepositoryNotFoundError, errors.HFValidationError):
            raise
        except Exception as error:  # offline; the HTTP library's errors differ by release
            return _cached(repo, error)
        names = [file.rfilename for file in info.siblings or ()]
        best = _best_weights(names, repo)
        shards = ["model-*-of-*.safetensors"] if best.endswith(".index.json") else []
        wanted = [*_SETTINGS, *([best, *shards] if weights else [])]
        return Path(huggingface_hub.snapshot_download(repo, allow_patterns=wanted))
    except errors.GatedRepoError as error:
        raise PermissionError(
            f"{repo} is gated: accept its terms on https://huggingface.co/{repo}, then log in by "
            "`hf auth login` or set HF_TOKEN"
        ) from error
    except (errors.RepositoryNotFoundError, errors.HFValidationError) as error:
        raise FileNotFoundError(
            f"{repo!r} is neither 'world', nor a folder, nor a model on the Hugging Face hub; for "
            "a private model, log in by `hf auth login` or set HF_TOKEN"
        ) from error


def _cached(repo: str, reason: Exception) -> Path:
    """The folder of an earlier download."""
    with contextlib.suppress(errors.LocalEntryNotFoundError):
        wanted = ["config.json"]
        folder = huggingface_hub.snapshot_download(
            repo, allow_patterns=wanted, local_files_only=True
        )
        if any((Path(folder) / name).is_file() for name in _WEIGHTS):
            return Path(folder)
    raise ConnectionError(
        f"{repo} is not in the cache {constants.HF_HUB_CACHE}, and the Hugging Face hub can't be "
        f"reached ({reason}). To work offline, run `hf download {repo} --local-dir FOLDER` (older "
        "releases: huggingface-cli download) on a machine with a network and give FOLDER in place "
        "of the model id, or copy that machine's cache here and set HF_HUB_OFFLINE=1. The model "
        "'world' needs no network"
    ) from reason
