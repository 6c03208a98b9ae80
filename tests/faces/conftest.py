"""The server and the clients of this folder's tests."""

from importlib.util import find_spec

if all(map(find_spec, ("transformers", "llguidance", "openai", "httpx"))):
    from tests.faces.serving_languages import aclient, client, running, web

    __all__ = ["aclient", "client", "running", "web"]
else:
    collect_ignore_glob = ["test_*.py"]
