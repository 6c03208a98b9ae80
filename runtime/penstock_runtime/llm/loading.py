"""One model at a time: while transformers makes one, it changes global state of its own classes and
of torch, and would leave it changed where two are made at once.
"""

from threading import Lock

LOADING = Lock()
