"""What the HTTP faces of language models share: which models there are, how a question becomes a
request of the protocol, and what its responses say. Knows no vendor's words.
"""
