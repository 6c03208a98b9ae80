"""The sum and the difference of two vectors; the configuration says of what."""


def predict(INPUT0, INPUT1):
    return {"OUTPUT0": INPUT0 + INPUT1, "OUTPUT1": INPUT0 - INPUT1}
