"""One response for each element of IN: DELAY milliseconds before each, and at least WAIT
milliseconds before the next request.
"""

import time


def predict(IN, DELAY, WAIT):
    began = time.monotonic()
    for index, (value, delay) in enumerate(zip(IN, DELAY, strict=True)):
        time.sleep(delay / 1000)
        yield {"OUT": value, "IDX": index}
    time.sleep(max(0.0, began + WAIT[0] / 1000 - time.monotonic()))
