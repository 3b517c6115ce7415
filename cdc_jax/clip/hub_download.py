"""Downloads a CLIP from the Hugging Face hub, or finds the files of an earlier download."""

import contextlib
import re
from pathlib import Path

import huggingface_hub
from huggingface_hub import constants, errors

from cdc_jax.clip import hub


def download(repo: str, revision: str | None, weights: bool) -> Path:
    """Downloads the settings and the best weights of a model into the hub's cache.

    Returns:
      The folder of the files in the cache.

    Raises:
      FileNotFoundError, PermissionError, ConnectionError: see `hub.find`.
    """
    try:
        try:
            info = huggingface_hub.HfApi().model_info(repo, revision=revision, timeout=10)
        except (
            errors.RepositoryNotFoundError, errors.RevisionNotFoundError, errors.HFValidationError
        ):  # fmt: skip
            raise
        except Exception as error:  # offline; the HTTP library's errors differ by release
            return _cached(repo, revision, error)
        names = [file.rfilename for file in info.siblings or ()]
        best = hub.best_weights(names, repo)
        # model.fp16-00001-of-00002.safetensors are shards of model.safetensors.index.fp16.json.
        variant = best.removeprefix("model.safetensors.index").removesuffix("json").rstrip(".")
        shards = [f"model{variant}-*-of-*.safetensors"] if best.endswith(".json") else []
        patterns = [*hub.SETTINGS, *([best, *shards] if weights else [])]
        return Path(
            huggingface_hub.snapshot_download(repo, revision=revision, allow_patterns=patterns)
        )
    except errors.RevisionNotFoundError as error:
        raise FileNotFoundError(
            f"{repo} has no revision {revision!r} on the Hugging Face hub: give a branch, a tag or "
            "a commit of it behind the @"
        ) from error
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


def _cached(repo: str, revision: str | None, reason: Exception) -> Path:
    """The folder of an earlier download."""
    with contextlib.suppress(errors.LocalEntryNotFoundError):
        patterns = ["config.json"]
        folder = huggingface_hub.snapshot_download(
            repo, revision=revision, allow_patterns=patterns, local_files_only=True
        )
        names = [file.name for file in Path(folder).iterdir()]
        if any(re.fullmatch(pattern, name) for pattern in hub.WEIGHTS for name in names):
            return Path(folder)
    pinned = f" --revision {revision}" if revision else ""
    raise ConnectionError(
        f"{repo}{'@' * bool(revision)}{revision or ''} is not in the cache "
        f"{constants.HF_HUB_CACHE}, and the Hugging Face hub can't be reached ({reason}). To work "
        f"offline, run `hf download {repo}{pinned} --local-dir FOLDER` (older releases: "
        "huggingface-cli download) on a machine with a network and give FOLDER in place of the "
        "model id, or copy that machine's cache here and set HF_HUB_OFFLINE=1. The model 'world' "
        "needs no network"
    ) from reason
