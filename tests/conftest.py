"""Settings of all tests."""

import importlib
from pathlib import Path

import fsspec.implementations.memory
import hypothesis
import jax
import jaxtyping
import pytest
from etils import epath

# Before anything of the package is imported: annotations of arrays and all else are checked.
jaxtyping.install_import_hook("cdc_jax", "typechecking.check")

from cdc_jax import programs  # noqa: E402

# The same examples in every run: a test fails because of a change, never by chance.
hypothesis.settings.register_profile("reproducible", derandomize=True, deadline=None)
hypothesis.settings.load_profile("reproducible")

collect_ignore = ["references"]  # what made the stored answers; it may need torch

# Workers take one file after the other. With these first, none is left alone with a long one.
LONGEST = (
    "test_devices", "test_benchmark_accelerator", "test_first_result", "test_train", "test_method",
    "test_kill", "test_prediction", "test_pretrain", "test_x64", "test_closed_output",
)  # fmt: skip


def pytest_collection_modifyitems(items):
    rank = {name: i for i, name in enumerate(LONGEST)}
    items.sort(key=lambda item: rank.get(item.path.stem, len(rank)))


@pytest.fixture(scope="session")
def get_config():
    """The `get_config` of a file in cdc_jax/configs."""

    def load(name, *argument):
        return importlib.import_module(f"cdc_jax.configs.{name}").get_config(*argument)

    return load


@pytest.fixture(scope="session", autouse=True)
def compilation_cache(pytestconfig):
    """Programs that several tests compile are compiled once, in whatever process they run.

    Pytest's own cache, or JAX_COMPILATION_CACHE_DIR, keeps them for the next run of the tests. Most
    of the tests' time is compilation. Without most optimisations it takes about half as long, and
    the programs, which are slower, compute the same. Scripts that tests fork do so, too.
    """
    folder = jax.config.jax_compilation_cache_dir or str(pytestconfig.cache.mkdir("programs"))
    programs.discard_unfinished(Path(folder))
    jax.config.update("jax_compilation_cache_dir", folder)
    jax.config.update("jax_compilation_cache_max_size", 2**31)
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.2)
    jax.config.update("jax_disable_most_optimizations", True)


@pytest.fixture(scope="module")
def full_optimization():
    """For tests of what the compiler makes of a program, and for long trainings."""
    jax.config.update("jax_disable_most_optimizations", False)
    yield
    jax.config.update("jax_disable_most_optimizations", True)


@pytest.fixture(scope="session", autouse=True)
def feature_cache(tmp_path_factory):
    """Where image features and tokenizers are kept, in whatever process: never the user's home."""
    folder = tmp_path_factory.mktemp("caches")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CDC_JAX_CACHE", str(folder))
        yield folder / "features"


@pytest.fixture
def bucket(monkeypatch):
    """gs://bucket in memory."""

    class Bucket(fsspec.implementations.memory.MemoryFileSystem):
        protocol = ("gs", "memory")
        store, pseudo_dirs = {}, [""]

        @classmethod
        def _strip_protocol(cls, path):
            return super()._strip_protocol(path.removeprefix("gs:/"))

    monkeypatch.setattr(type(epath.backend.fsspec_backend), "_get_filesystem", lambda *_: Bucket())
    return epath.Path("gs://bucket/run")
