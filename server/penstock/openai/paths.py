"""Where OpenAI's interface is: at its own place, and at the one that KServe has for it."""

ROOTS = ("/v1", "/openai/v1")
