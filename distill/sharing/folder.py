"""A trained model as a folder for other programs: `from_pretrained`, vLLM and the hub read it as it is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from transformers import GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase

from distill.generation.settings import SamplingSettings
from distill.project.errors import SettingsError
from distill.project.files import fresh_dir, read_json, write_json, write_text

ORIGIN_FILE = "distill.json"
"""The file that marks an export; a folder without it is somebody's own and never replaced."""

# Names that only transformers 5 knows, or that speak of the machine they were written on.
_PLAIN_CLASS = {"TokenizersBackend": "PreTrainedTokenizerFast"}
_OF_THIS_MACHINE = ("is_local", "local_files_only", "backend", "name_or_path")


def require_free(folder: Path) -> None:
    """Refuse a folder that holds anything but an earlier export. Raises: SettingsError."""
    if folder.exists() and not (folder.is_dir() and ((folder / ORIGIN_FILE).is_file() or not any(folder.iterdir()))):
        raise SettingsError(f"{folder} exists and is no earlier export; name a new folder with --to")


def write_export(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    sampling: SamplingSettings,
    max_new_tokens: int,
    card: str,
    meta: dict[str, Any],
    folder: Path,
) -> None:
    """Write weights, tokenizer, generation config, card and `meta` as one folder, or nothing at all.

    Raises: SettingsError when `folder` holds something else.
    """
    require_free(folder)
    model.config.use_cache = True  # training switches the cache off, and generation without it is very slow
    model.generation_config = generation_config(tokenizer, sampling, max_new_tokens)
    longest = getattr(model.config, "max_position_embeddings", None)
    if longest is not None:
        tokenizer.model_max_length = min(int(longest), tokenizer.model_max_length)
    with fresh_dir(folder) as aside:
        model.save_pretrained(aside)
        tokenizer.save_pretrained(aside)
        _without_local_names(aside / "tokenizer_config.json")
        write_json(aside / ORIGIN_FILE, meta)
        write_text(aside / "README.md", card)


def generation_config(
    tokenizer: PreTrainedTokenizerBase, sampling: SamplingSettings, max_new_tokens: int
) -> GenerationConfig:
    """The decoding of the evaluation, so that `generate()` without arguments answers as the results did."""
    return GenerationConfig(
        do_sample=True,
        temperature=sampling.temperature,
        top_p=sampling.top_p,
        top_k=sampling.top_k,
        max_new_tokens=max_new_tokens,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )


def _without_local_names(path: Path) -> None:
    content = {name: value for name, value in read_json(path).items() if name not in _OF_THIS_MACHINE}
    content["tokenizer_class"] = _PLAIN_CLASS.get(content["tokenizer_class"], content["tokenizer_class"])
    write_json(path, content)
