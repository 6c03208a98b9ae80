"""OpenAI's interface over HTTP, and what others added to it."""
