"""Runs experiments/run.py for each line of standard input, forked when its imports are done.

A line is a JSON list: the arguments, the folder to run in, and a file for what is printed. Prints
the exit code of each.
"""

import json
import os
import runpy
import sys
import traceback
from pathlib import Path

from cdc_jax import config_file, devices, report, sweep  # noqa: F401  what run.py imports

RUN = str(Path(__file__).parent.parent / "experiments" / "run.py")


def run(arguments, folder, output):
    """Runs in this process, as Python would run the script; returns the exit code."""
    os.chdir(folder)
    printed = os.open(output, os.O_WRONLY | os.O_CREAT)
    os.dup2(printed, 1)
    os.dup2(printed, 2)
    sys.argv = [RUN, *arguments]
    try:
        runpy.run_path(RUN, run_name="__main__")
    except SystemExit as end:
        if isinstance(end.code, str):
            print(end.code, file=sys.stderr)
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        traceback.print_exc()
        return 1
    return 0


if __name__ == "__main__":
    for line in sys.stdin:
        if child := os.fork():
            print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
        else:
            code = run(*json.loads(line))
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)
