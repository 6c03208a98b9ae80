"""A model with the tensors of a language model, which goes on by saying the prompt once more, in
pieces of at most four characters; the sources and configurations of it and of its kin.

Prompts with a meaning: `!show` (what was given to the model, as JSON), `!refuse`, `!full`, `!break`
(a failure after three pieces), `!wait` (goes on until it is cancelled, then writes a file).
"""

from pathlib import Path

SOURCE = """
import json, re, time, zlib
from pathlib import Path
import numpy as np
from penstock_runtime.errors import InvalidArgument, ResourceExhausted, Violation
from penstock_runtime.model_api import Context

HERE = Path(__file__).parent


def cut(text):
    return re.findall(r"\\s*\\S{1,4}|\\s+$", text)


def said(piece, rank, number=None):
    token = zlib.crc32(piece.encode()) % 50000 if number is None else number
    return {str(token): {"logprob": -0.5 * rank, "rank": rank, "decoded_token": piece}}


def scores(pieces, top):
    return [said(p, 1) | (said("other", 2) if top > 1 else {}) for p in pieces]


class Model:
    def predict(self, context: Context, text_input=None, input_ids=None, messages=None,
                stream=None, sampling_parameters=None, exclude_input_in_output=None,
                return_finish_reason=None, return_cumulative_logprob=None, return_logprobs=None,
                return_num_input_tokens=None, return_num_output_tokens=None):
        sampling = json.loads(sampling_parameters[0]) if sampling_parameters is not None else {}
        sampling = {**context.parameters, **sampling}
        if messages is not None:
            given = json.loads(messages[0])
            prompt = given["messages"][-1]["content"]
        elif input_ids is not None:
            given = input_ids.tolist()
            prompt = " ".join(f"t{i}" for i in given)
        else:
            given = prompt = text_input[0].decode()
        streaming = stream is not None and bool(stream[0])
        if prompt == "!show":
            prompt = json.dumps({"given": given, "sampling": sampling, "stream": streaming})
        if prompt == "!refuse":
            text = "'temperature' is 9, expected 0 to 2"
            wrong = (Violation("temperature", text),)
            raise InvalidArgument(text, violations=wrong, scheduled=True)
        if prompt == "!full":
            raise ResourceExhausted("the queue is full", reason="QUEUE_FULL", scheduled=True)
        if prompt == "!wait":
            yield from self.wait(context, streaming)
            return
        pieces = cut(prompt)
        most = sampling.get("max_tokens", 16)
        choices = [self.choice(pieces, most, sampling) for _ in range(sampling.get("n", 1))]
        counts = {"num_input_tokens": len(pieces), "cached_tokens": len(pieces) // 2}
        if sampling.get("prompt_logprobs") is not None:
            found = scores(pieces, sampling["prompt_logprobs"])
            counts["prompt_logprobs"] = json.dumps([None, *found[1:]])
        if streaming:
            yield from self.pieces(choices, counts, sampling, prompt)
        else:
            excluded = exclude_input_in_output is None or exclude_input_in_output[0]
            before = "" if excluded else prompt
            yield self.response(list(enumerate(choices)), counts, sampling, before)

    def choice(self, pieces, most, sampling):
        if most is not None and most < len(pieces):
            return pieces[:most], "length", ""
        stop = sampling.get("stop") or []
        stop = [] if pieces[0] == '{"gi' else stop
        for number, piece in enumerate(pieces):
            for word in [stop] if isinstance(stop, str) else stop:
                if word in piece:
                    kept = [piece] if sampling.get("include_stop_str_in_output") else []
                    return pieces[:number] + kept, "stop", word
        return pieces, "stop", ""

    def pieces(self, choices, counts, sampling, prompt):
        most = max(len(pieces) for pieces, _, _ in choices)
        for at in range(max(most, 1)):
            if prompt.startswith("!break") and at == 3:
                raise ValueError("no more")
            for index, (pieces, reason, why) in enumerate(choices):
                if at <= max(len(pieces) - 1, 0):
                    last = at >= len(pieces) - 1
                    now = (pieces[at:at + 1], reason if last else "", why if last else "")
                    yield self.response([(index, now)], counts, sampling, "", total=at + 1)

    def response(self, choices, counts, sampling, before, total=None):
        texts = [before + "".join(pieces) for _, (pieces, _, _) in choices]
        made = {
            "text_output": texts,
            "finish_reason": [reason for _, (_, reason, _) in choices],
            "stop_reason": [why for _, (_, _, why) in choices],
            "index": np.array([index for index, _ in choices], np.int32),
            "cumulative_logprob": np.array([-1.0 / (1 + i) for i, _ in choices], np.float32),
            "num_output_tokens": np.array([total or len(p) for _, (p, _, _) in choices], np.uint32),
        }
        made |= {"logprobs": [""] * len(choices), "prompt_logprobs": [""]}
        for name, value in counts.items():
            made[name] = [value] if isinstance(value, str) else np.array([value], np.uint32)
        if sampling.get("logprobs") is not None:
            top = sampling["logprobs"]
            made["logprobs"] = [json.dumps(scores(p, top)) for _, (p, _, _) in choices]
        return made

    def wait(self, context, streaming):
        counts = {"num_input_tokens": 1, "cached_tokens": 0}
        try:
            for _ in range(3 * streaming):
                yield self.response([(0, (["on "], "", ""))], counts, {}, "")
            while not context.cancelled:
                time.sleep(0.002)
        finally:
            (HERE / "left").touch()
"""

CONFIG = """
backend: "python"
max_batch_size: 0
model_transaction_policy {{ decoupled: true }}
instance_group {{ kind: KIND_CPU count: {count} }}
input [
  {{ name: "text_input" data_type: TYPE_STRING dims: [ -1 ] optional: true }},
  {{ name: "input_ids" data_type: TYPE_INT64 dims: [ -1 ] optional: true }},
  {{ name: "messages" data_type: TYPE_STRING dims: [ 1 ] optional: true }},
  {{ name: "stream" data_type: TYPE_BOOL dims: [ 1 ] optional: true }},
  {{ name: "sampling_parameters" data_type: TYPE_STRING dims: [ 1 ] optional: true }},
  {{ name: "exclude_input_in_output" data_type: TYPE_BOOL dims: [ 1 ] optional: true }},
  {{ name: "return_finish_reason" data_type: TYPE_BOOL dims: [ 1 ] optional: true }},
  {{ name: "return_cumulative_logprob" data_type: TYPE_BOOL dims: [ 1 ] optional: true }},
  {{ name: "return_logprobs" data_type: TYPE_BOOL dims: [ 1 ] optional: true }},
  {{ name: "return_num_input_tokens" data_type: TYPE_BOOL dims: [ 1 ] optional: true }},
  {{ name: "return_num_output_tokens" data_type: TYPE_BOOL dims: [ 1 ] optional: true }}
]
output [
  {{ name: "text_output" data_type: TYPE_STRING dims: [ -1 ] }},
  {{ name: "finish_reason" data_type: TYPE_STRING dims: [ -1 ] }},
  {{ name: "stop_reason" data_type: TYPE_STRING dims: [ -1 ] }},
  {{ name: "index" data_type: TYPE_INT32 dims: [ -1 ] }},
  {{ name: "cumulative_logprob" data_type: TYPE_FP32 dims: [ -1 ] }},
  {{ name: "logprobs" data_type: TYPE_STRING dims: [ -1 ] }},
  {{ name: "prompt_logprobs" data_type: TYPE_STRING dims: [ 1 ] }},
  {{ name: "num_input_tokens" data_type: TYPE_UINT32 dims: [ 1 ] }},
  {{ name: "num_output_tokens" data_type: TYPE_UINT32 dims: [ -1 ] }},
  {{ name: "cached_tokens" data_type: TYPE_UINT32 dims: [ 1 ] }}
]
"""

ENCODER = """
import numpy as np
def predict(text_input):
    rows = [row[0].decode() for row in text_input]
    vectors = np.array([[len(text), 4.0, 0.0] for text in rows], np.float32)
    counts = np.array([[len(text.split())] for text in rows], np.uint32)
    return {"embedding": vectors, "num_input_tokens": counts}
"""
ENCODER_CONFIG = """
backend: "python"
max_batch_size: 8
dynamic_batching { }
input { name: "text_input" data_type: TYPE_STRING dims: [ 1 ] }
output { name: "embedding" data_type: TYPE_FP32 dims: [ 3 ] }
output { name: "num_input_tokens" data_type: TYPE_UINT32 dims: [ 1 ] }
"""
RANKER = """
import numpy as np
def predict(query, document):
    pairs = zip(query, document)
    scores = [[float(d[0].decode().count(q[0].decode()))] for q, d in pairs]
    return {"score": np.array(scores, np.float32)}
"""
RANKER_CONFIG = """
backend: "python"
max_batch_size: 8
input { name: "query" data_type: TYPE_STRING dims: [ 1 ] }
input { name: "document" data_type: TYPE_STRING dims: [ 1 ] }
output { name: "score" data_type: TYPE_FP32 dims: [ 1 ] }
"""


def write(root: Path, name: str, source: str, config: str) -> Path:
    """A model in a repository."""
    version = root / name / "1"
    version.mkdir(parents=True)
    (version / "model.py").write_text(source)
    (version.parent / "config.pbtxt").write_text(config)
    return version


def write_text_model(root: Path, name: str = "words", count: int = 4) -> Path:
    """The model that goes on; its version's folder."""
    return write(root, name, SOURCE, CONFIG.format(count=count))


def write_all(root: Path) -> None:
    """One model of each kind."""
    write_text_model(root)
    write(root, "vectors", ENCODER, ENCODER_CONFIG)
    write(root, "ranks", RANKER, RANKER_CONFIG)
