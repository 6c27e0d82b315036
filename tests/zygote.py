"""A process with the heavy libraries loaded that forks a child for every script it is asked to run: a script then starts in a moment.

Reads one JSON request a line ({script, args, cwd, environment, stdout, stderr}) and answers with the child's exit status. Nothing of the project is
imported before the fork, since global_config reads the environment on import.
"""

import json
import os
import runpy
import sys
import traceback

import matplotlib.figure  # noqa: F401
import pandas  # noqa: F401
import pydantic  # noqa: F401
import scipy.stats  # noqa: F401
import skimage.metrics  # noqa: F401
import sklearn.linear_model  # noqa: F401
import torch  # noqa: F401
import torch.utils.data  # noqa: F401
import torchvision  # noqa: F401
import yaml  # noqa: F401


def run(request: dict) -> int:
    os.chdir(request["cwd"])
    os.environ.clear()
    os.environ.update(request["environment"])
    for name, target in (("stdout", 1), ("stderr", 2)):
        os.dup2(os.open(request[name], os.O_WRONLY | os.O_CREAT | os.O_TRUNC), target)
    sys.stdout, sys.stderr = os.fdopen(1, "w", buffering=1), os.fdopen(2, "w", buffering=1)
    sys.argv = [request["script"], *request["args"]]
    try:
        runpy.run_path(request["script"], run_name="__main__")
        return 0
    except SystemExit as stop:
        return stop.code if isinstance(stop.code, int) else 0 if stop.code is None else 1
    except BaseException:
        traceback.print_exc()
        return 1


def main() -> None:
    for line in sys.stdin:
        request = json.loads(line)
        child = os.fork()
        if child == 0:
            code = run(request)
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)


if __name__ == "__main__":
    main()
