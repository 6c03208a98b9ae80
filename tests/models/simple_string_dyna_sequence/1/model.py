"""What a sequence sends, one more in its first step, and its correlation id more in its last; the id
is text, and a number.
"""

import numpy as np


def predict(INPUT, START, END, READY, CORRID):
    return {"OUTPUT": INPUT + START + END * CORRID.astype(int).astype(np.int32)}
