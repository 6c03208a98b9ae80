"""The interface of Text Generation Inference over HTTP, for whoever comes from there."""
