"""A conversation with a language model, with penstock's client: each piece is printed as it comes.

python examples/clients/stream_penstock.py localhost:8001 tiny_llm "what does os.path.join do?"
"""

import json
import sys

from penstock.client.sync import Client


def main(url: str, model: str, question: str) -> None:
    """Print the answer, and what the server says of it."""
    messages = json.dumps([{"role": "user", "content": question}])
    sampling = json.dumps({"max_tokens": 64, "temperature": 0})
    wanted = ("text_output", "num_output_tokens", "ttft_ns")
    inputs = {"messages": [messages], "sampling_parameters": [sampling]}
    with Client(url) as client, client.stream(model, inputs, outputs=wanted) as answers:
        for answer in answers:
            print(answer["text_output"].item().decode(), end="", flush=True)
        tokens, first = answer["num_output_tokens"].item(), answer["ttft_ns"].item() / 1e6
    print(f"\n{tokens} tokens, the first after {first:.1f} ms", file=sys.stderr)


if __name__ == "__main__":
    main(*sys.argv[1:])
