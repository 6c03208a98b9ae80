"""Every path of OpenAI's interface."""

from penstock.generative.asker import Asker
from penstock.generative.catalogue import Catalogue
from penstock.openai.face_chat import ChatFace
from penstock.openai.face_completions import CompletionsFace
from penstock.openai.face_embeddings import EmbeddingsFace
from penstock.openai.face_models import ListFace
from penstock.openai.face_rerank import RerankFace
from penstock.openai.face_tokens import TokensFace
from penstock.rest.route import Route
from penstock.workshop import Workshop
from penstock_runtime.core import InferenceCore


def openai_routes(shop: Workshop, core: InferenceCore) -> list[Route]:
    """The routes of all its faces."""
    asker, catalogue = Asker(shop), Catalogue(core)
    return [
        *ListFace(catalogue).routes(),
        *CompletionsFace(asker, catalogue).routes(),
        *ChatFace(asker, catalogue).routes(),
        *EmbeddingsFace(asker, catalogue).routes(),
        *RerankFace(asker, catalogue).routes(),
        *TokensFace(asker, catalogue).routes(),
    ]
