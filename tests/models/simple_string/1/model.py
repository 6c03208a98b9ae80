"""The sum and the difference of two vectors of numbers, all of them written as text."""


def predict(INPUT0, INPUT1):
    first, second = INPUT0.astype(int), INPUT1.astype(int)
    return {"OUTPUT0": (first + second).astype(str), "OUTPUT1": (first - second).astype(str)}
