"""Forks one child for each line of standard input and runs a campaign in it; says the child's pid, and after a line `wait` its exit
status: until then the pid is the child's, dead or alive.

A line is JSON: config (an experiment as plain data), out, resume. Importing the harness once and forking makes a hundred lives
of a campaign affordable; each child is a process of its own that can be killed.
"""

from __future__ import annotations

import json
import os
import sys
import traceback
from pathlib import Path

from campaign_values import run

from harness.config.experiment import ExperimentSpec


def main() -> None:
    print("ready", flush=True)
    for line in sys.stdin:
        asked = json.loads(line)
        pid = os.fork()
        if pid == 0:
            code = 1
            try:
                run(ExperimentSpec.model_validate(asked["config"]), Path(asked["out"]), resume=asked["resume"])
                code = 0
            except BaseException:
                traceback.print_exc()
            finally:
                os._exit(code)
        print(pid, flush=True)
        assert sys.stdin.readline() == "wait\n"
        print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)


main()
