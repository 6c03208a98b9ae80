"""What a sequence sends, and one more in its first step: what the client's example programs check."""


def predict(INPUT, START, END, READY):
    return {"OUTPUT": (INPUT + START) * READY}
