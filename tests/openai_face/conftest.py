"""The servers and clients of this folder's tests."""

from tests.openai_face.serving_text import client, serving, text_models, web

__all__ = ["client", "serving", "text_models", "web"]
