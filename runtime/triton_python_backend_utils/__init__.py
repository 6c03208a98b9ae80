"""The module that models for Triton's Python backend import: with penstock installed it is there
also without a server, so that a model's file can be tested as any other.
"""

from penstock_runtime.backends.triton_python.api import *  # noqa: F403
