"""Folders of models for processes of their own, and what tests wait for."""

import os
import time
from collections.abc import Callable
from pathlib import Path
from textwrap import dedent

HEADER = """
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path
import numpy as np
from penstock_runtime.model_api import *

HERE = Path(__file__).parent
"""


def write_model(
    root: Path, name: str, code: str, *, count: int = 1, more: str = "", header: str = HEADER
) -> Path:
    """A model whose instances are processes; the folder of its version."""
    folder = root / name / "1"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "model.py").write_text(header + dedent(code))
    group = f"instance_group [ {{ kind: KIND_PROCESS count: {count} }} ]"
    (root / name / "config.pbtxt").write_text(f"{group}\n{more}\n")
    return folder


def parameter(key: str, value: object) -> str:
    """A parameter of a configuration."""
    return f'parameters {{ key: "{key}" value {{ string_value: "{value}" }} }}'


def wait_for(what: Callable[[], bool], seconds: float = 30.0) -> bool:
    """Whether it comes to be so."""
    until = time.monotonic() + seconds
    while not what():
        if time.monotonic() > until:
            return False
        time.sleep(0.005)
    return True


def is_there(pid: int) -> bool:
    """Whether a process is there; one that nobody has reaped is."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True
