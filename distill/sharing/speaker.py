"""A finished model that answers one question at a time, with the prompt it was trained on."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from distill.generation.decode import sample_responses
from distill.generation.settings import SamplingSettings
from distill.generation.validation import decode_text
from distill.models.loading import load_model
from distill.models.settings import Dtype
from distill.project.files import read_json
from distill.prompting.prompts import encode_prompts, fit_prompts, render
from distill.text.settings import PromptSettings
from distill.text.tokenizers import load_tokenizer


@dataclass(frozen=True)
class Speaker:
    """A model, its tokenizer and its prompt."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    prompt: PromptSettings

    def answer(self, instruction: str, given: str, sampling: SamplingSettings, key: int) -> str:
        """The answer to `instruction` with the input `given` (may be empty); `key` fixes every draw."""
        text = render(self.prompt, instruction, given)
        encoded = encode_prompts(self.tokenizer, self.prompt, [text])
        (response,) = sample_responses(
            self.model,
            fit_prompts(self.tokenizer, self.prompt, encoded),
            [key],
            max_new_tokens=self.prompt.max_response_tokens,
            eos_id=int(self.tokenizer.eos_token_id),
            batch_size=1,
            sampling=sampling,
        )
        return decode_text(self.tokenizer, response.ids)


def load_speaker(folder: Path, dtype: Dtype) -> Speaker:
    """A finished checkpoint, on the GPU if there is one; the prompt comes with the model."""
    model = load_model(folder, dtype)
    torch.nn.Module.to(model, "cuda" if torch.cuda.is_available() else "cpu")
    prompt = PromptSettings.model_validate(read_json(folder / "meta.json")["prompt"])
    return Speaker(model, load_tokenizer(folder), prompt)
