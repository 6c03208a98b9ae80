"""What a sequence sends, one more in its first step, and its correlation id more in its last. The
id is the text of a number.
"""

import numpy as np


def predict(INPUT, START, END, READY, CORRID):
    return {"OUTPUT": INPUT + START + END * CORRID.astype(int).astype(np.int32)}
