"""What a sequence sends, one more in its first step, and its correlation id more in its last."""

import numpy as np


def predict(INPUT, START, END, READY, CORRID):
    return {"OUTPUT": INPUT + START + END * CORRID.astype(np.int32)}
