"""Runs scripts in forks of a process that has the heavy libraries loaded: they start in a moment.

Nothing of the project is imported before the fork, since global_config reads the environment on import.
"""

import atexit
import multiprocessing
import os
import resource
import runpy
import subprocess
import sys
import traceback
from functools import cache
from pathlib import Path

HEAVY = ["matplotlib.backends.backend_agg", "matplotlib.backends.backend_pdf", "matplotlib.pyplot"]
HEAVY += ["pandas", "pydantic.functional_validators", "pydantic.types", "safetensors.torch", "scipy.stats"]
HEAVY += ["skimage.metrics", "sklearn.cluster", "sklearn.linear_model"]
HEAVY += ["torch", "torch.utils.data", "torchvision", "tqdm", "yaml"]


@cache
def server():
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(HEAVY)
    return context


def run(
    script: str,
    args: list[str],
    environment: dict,
    cwd: str,
    output: str,
    errors: str,
    prelude: str,
    file_limit: int | None,
) -> None:
    """In the child: become the script."""
    os.setsid()
    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(environment)
    for name, target in ((output, 1), (errors, 2)):
        os.dup2(os.open(name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), target)
    sys.stdout, sys.stderr = os.fdopen(1, "w", buffering=1), os.fdopen(2, "w", buffering=1)
    if file_limit is not None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (file_limit, file_limit))
    sys.argv = [script, *args]
    code = 1
    try:
        exec(prelude, {})
        runpy.run_path(script, run_name="__main__")
        code = 0
    except SystemExit as stop:
        code = stop.code if isinstance(stop.code, int) else 0 if stop.code is None else 1
    except BaseException:
        traceback.print_exc()
    sys.stdout.flush()
    sys.stderr.flush()
    sys.exit(code)


class Fork:
    """A script that runs in a fork, in a session of its own, with those methods of subprocess.Popen that tests need."""

    def __init__(
        self,
        script: str,
        args: list[str],
        environment: dict,
        cwd: Path,
        outputs: Path,
        prelude: str = "",
        file_limit=None,
    ):
        """outputs: path without suffix, to which .out and .err are added; prelude: code that runs before the script;
        file_limit: bytes that a file may grow to."""
        self.files = [outputs.with_suffix(suffix) for suffix in (".out", ".err")]
        arguments = (script, args, environment, str(cwd), *map(str, self.files), prelude, file_limit)
        self.process = server().Process(target=run, args=arguments)
        self.process.start()
        self.pid = self.process.pid
        atexit.register(self.process.kill)

    @property
    def returncode(self) -> int | None:
        return self.process.exitcode

    def poll(self) -> int | None:
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        self.process.join(timeout)
        if self.returncode is None:
            raise subprocess.TimeoutExpired("a fork", timeout)
        return self.returncode

    def communicate(self, timeout: float | None = None) -> tuple[str, str]:
        """(stdout, stderr) once it is over."""
        self.wait(timeout)
        return tuple(file.read_text(errors="replace") if file.exists() else "" for file in self.files)
