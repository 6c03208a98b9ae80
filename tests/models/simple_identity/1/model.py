"""Gives back what it gets."""


def predict(INPUT0):
    return INPUT0
