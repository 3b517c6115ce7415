"""Scripts in processes of their own, forked from one that has imported what they import.

A script started anew imports for longer than most tests run.
"""

import atexit
import multiprocessing
import os
import runpy
import sys
import tempfile
import traceback
from pathlib import Path

import jax

EXPERIMENTS = Path(__file__).parent.parent / "experiments"

_CONTEXT = multiprocessing.get_context("forkserver")
_PRELOADED = (
    "cdc_jax.train", "cdc_jax.sweep", "cdc_jax.prediction", "cdc_jax.report.files",
    "cdc_jax.report.console", "sklearn.metrics", "scipy.stats",
)  # fmt: skip
_CONTEXT.set_forkserver_preload(list(_PRELOADED))

_COMPILATION = (
    "jax_compilation_cache_dir", "jax_compilation_cache_max_size",
    "jax_persistent_cache_min_compile_time_secs", "jax_disable_most_optimizations",
)  # fmt: skip


def compilation():
    """The options by which this process compiles programs and keeps them."""
    return {name: jax.config.values[name] for name in _COMPILATION}


def variables():
    """The same for a process that is started anew."""
    return {name.upper(): str(value) for name, value in compilation().items()}


class Script:
    """A running script, with what tests use of `subprocess.Popen`.

    Args:
      path: of the script.
      arguments: that follow its name.
      folder: to run in.
      programs: folder of compiled programs; the tests' own otherwise.
      stdout: a pipe to print to; otherwise `communicate` returns what it printed.
      environment: variables to set.
    """

    def __init__(self, path, *arguments, folder=".", programs=None, stdout=None, **environment):
        self._printed = tempfile.TemporaryDirectory()
        files = [Path(self._printed.name, name) for name in ("stdout", "stderr")]
        for file in files:
            file.touch()
        files = [str(stdout or files[0]), str(files[1])]
        options = compilation() | {"jax_platforms": "cpu"}
        if programs:
            options |= {
                "jax_compilation_cache_dir": str(programs),
                "jax_compilation_cache_max_size": -1,
                "jax_persistent_cache_min_compile_time_secs": 0.0,
            }
        command = [str(path), *map(str, arguments)]
        call = (command, str(folder), files, options, environment)
        self._process = _CONTEXT.Process(target=_run, args=call)
        self._process.start()

    def poll(self):
        """The exit code; None while it runs."""
        return self._process.exitcode

    returncode = property(poll)

    def kill(self):
        """Sends SIGKILL."""
        self._process.kill()

    def communicate(self, timeout=None):
        """What it printed and what it wrote to stderr, when it has ended."""
        self._process.join(timeout)
        assert self._process.exitcode is not None, f"still running after {timeout} s"
        with self._printed as folder:
            return tuple((Path(folder) / name).read_text() for name in ("stdout", "stderr"))


def train(workdir, config, programs=None):
    """Starts experiments/run.py as `kill_test.start` does; it keeps image features in `workdir`.

    Args:
      workdir: of the run.
      config: of the run.
      programs: folder of compiled programs; the tests' own otherwise.
    """
    options = (f"--config={config}", f"--workdir={workdir}")
    cache = str(workdir)
    return Script(EXPERIMENTS / "run.py", *options, programs=programs, CDC_JAX_CACHE=cache)


def _run(command, folder, files, options, environment):
    """Runs a script in this process as Python would, and ends as it would."""
    if encoding := environment.get("PYTHONIOENCODING"):
        sys.stdout.reconfigure(encoding=encoding)
        sys.stderr.reconfigure(encoding=encoding, errors="backslashreplace")
    for number, name in enumerate(files, 1):
        file = os.open(name, os.O_WRONLY)
        os.dup2(file, number)
        os.close(file)
    os.environ.update(environment)
    os.chdir(folder)
    for name, value in options.items():
        jax.config.update(name, value)
    sys.argv = command
    try:
        runpy.run_path(command[0], run_name="__main__")
    except SystemExit:
        raise
    except BaseException:
        traceback.print_exc()
        raise SystemExit(1) from None
    finally:
        if jax.distributed.is_initialized():  # a process that ends before all others fails them
            jax.distributed.shutdown()
        atexit._run_exitfuncs()
