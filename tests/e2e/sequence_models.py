"""Models with sequences, written into a repository for the tests."""

from pathlib import Path

START = """
    { name: "START" control [ { kind: CONTROL_SEQUENCE_START int32_false_true: [ 0, 1 ] } ] }"""
READY = """
    { name: "READY" control [ { kind: CONTROL_SEQUENCE_READY fp32_false_true: [ 0, 1 ] } ] }"""
END = """
    { name: "END" control [ { kind: CONTROL_SEQUENCE_END bool_false_true: [ false, true ] } ] }"""

TENSORS = """
max_batch_size: 4
input [ { name: "INPUT" data_type: TYPE_INT32 dims: [ 1 ] } ]
output [ { name: "OUTPUT" data_type: TYPE_INT32 dims: [ 1 ] } ]
"""

STATE = """
  state [ {
    input_name: "SUM_IN" output_name: "SUM" data_type: TYPE_INT32 dims: [ 1 ]
  } ]"""

# Adds up what a sequence sends; the runtime remembers, the code does not.
SUM_CONFIG = f"""{TENSORS}
sequence_batching {{ oldest {{ max_candidate_sequences: 2 }} {STATE} }}
"""
SUM = """
def predict(INPUT, SUM_IN):
    total = INPUT + SUM_IN
    return {"OUTPUT": total, "SUM": total}
"""

# Waits before each answer as long as it is told.
SLOW_CONFIG = f"""{TENSORS}
sequence_batching {{
  max_sequence_idle_microseconds: 30000000
  direct {{ }} control_input [ {START} ]
}}
parameters {{ key: "max_backlog_sequences" value {{ string_value: "2" }} }}
"""
SLOW = """
import time

def predict(INPUT, START):
    time.sleep(INPUT.max() / 1000)
    return {"OUTPUT": INPUT}
"""

# One slot, and a sequence that is silent soon loses it.
SHORT_CONFIG = """
max_batch_size: 0
input [ { name: "INPUT" data_type: TYPE_INT32 dims: [ 1 ] } ]
output [ { name: "OUTPUT" data_type: TYPE_INT32 dims: [ 1 ] } ]
sequence_batching { max_sequence_idle_microseconds: 1000000 direct { } }
"""
SHORT = """
def predict(INPUT):
    return {"OUTPUT": INPUT}
"""

# Counts down, one step per number; the answer is how many steps it took.
COUNTDOWN_CONFIG = f"""{TENSORS}
sequence_batching {{
  iterative_sequence: true
  oldest {{ max_candidate_sequences: 8 }}
  control_input [ {START} ]
  state [
    {{ input_name: "AT" output_name: "NEXT" data_type: TYPE_INT32 dims: [ 1 ] }}
  ]
}}
"""
COUNTDOWN = """
import numpy as np
from penstock import Context

def predict(INPUT, START, AT, contexts: list[Context]):
    steps = AT + 1
    for row, context in enumerate(contexts):
        assert context.sequence_start == bool(START[row, 0])
        if steps[row, 0] < INPUT[row, 0]:
            context.reschedule()
    return {"OUTPUT": steps, "NEXT": steps}
"""

# The same, decoupled: it says at every step where it is.
DIRECT_COUNTDOWN = COUNTDOWN_CONFIG.replace("oldest { max_candidate_sequences: 8 }", "direct { }")
TOKENS_CONFIG = f"""{DIRECT_COUNTDOWN}
model_transaction_policy {{ decoupled: true }}
"""
TOKENS = """
from penstock import Context

def predict(INPUT, START, AT, context: Context):
    at = AT + 1
    if at[0, 0] < INPUT[0, 0]:
        context.reschedule()
    yield {"OUTPUT": at, "NEXT": at}
"""

# Fails when it is sent 13; what it remembers stays as it was.
PICKY_CONFIG = SUM_CONFIG
PICKY = SUM.replace("    total", '    assert 13 not in INPUT, "unlucky"\n    total', 1)

MODELS = {
    "sum": (SUM_CONFIG, SUM),
    "slow": (SLOW_CONFIG, SLOW),
    "short": (SHORT_CONFIG, SHORT),
    "countdown": (COUNTDOWN_CONFIG, COUNTDOWN),
    "tokens": (TOKENS_CONFIG, TOKENS),
    "picky": (PICKY_CONFIG, PICKY),
}


def write(root: Path, name: str, config: str, code: str, version: int = 1) -> None:
    """A model's folder in the repository."""
    folder = root / name / str(version)
    folder.mkdir(parents=True)
    (folder / "model.py").write_text(code)
    (root / name / "config.pbtxt").write_text(config)


def repository(root: Path) -> Path:
    """A repository with all of them."""
    for name, (config, code) in MODELS.items():
        write(root, name, config, code)
    return root
