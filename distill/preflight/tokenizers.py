"""Whether teacher and students share the family's tokenizer, and its chat template works, as far as their files are on
this disk.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from distill.preflight.findings import Finding
from distill.preflight.models import snapshot
from distill.project.errors import ModelError
from distill.project.references import Reference
from distill.text.settings import PromptSettings

_FILES = ("tokenizer.json", "vocab.json", "tokenizer.model")


def tokenizer_finding(sources: Mapping[str, Reference], environment: Mapping[str, str]) -> Finding:
    """Compare the tokenizers of `sources` (who → where its model or tokenizer comes from) with the family's."""
    folders = {who: snapshot(reference, environment) for who, reference in sources.items()}
    here = {who: folder for who, folder in folders.items() if folder is not None and _has_tokenizer(folder)}
    absent = sorted(set(sources) - set(here))
    if len(here) < 2:
        known = f"not here yet: {', '.join(absent)}" if absent else "one, learned from the training rows"
        return Finding("ok", "tokenizer", known)
    from distill.text.tokenizers import load_tokenizer, require_same_tokenizer

    first, *others = here
    try:
        loaded = {who: load_tokenizer(folder) for who, folder in here.items()}
        for who in others:
            require_same_tokenizer(loaded[first], loaded[who])
    except ModelError as error:
        return Finding("stop", "tokenizer", str(error))
    compared = f"{', '.join(here)} agree on {len(loaded[first])} tokens"
    return Finding("ok", "tokenizer", compared + (f"; not here yet: {', '.join(absent)}" if absent else ""))


def chat_finding(prompt: PromptSettings, source: Reference | None, environment: Mapping[str, str]) -> list[Finding]:
    """The family's chat template, where one is asked for; `source`: its tokenizer, None if it is learned here."""
    if prompt.chat_template is False:
        return []
    folder = None if source is None else snapshot(source, environment)
    if source is not None and (folder is None or not _has_tokenizer(folder)):
        return [Finding("ok", "chat template", "not here yet")]
    from distill.prompting.chat import chat_form
    from distill.text.tokenizers import load_tokenizer

    try:
        if folder is None:
            raise ModelError("a tokenizer learned here has no chat template; set `prompt.chat_template: false`")
        form = chat_form(load_tokenizer(folder), prompt.chat_template, prompt.system)
    except ModelError as error:
        return [Finding("stop", "chat template", str(error))]
    told = [Finding("warn" if form.opening.strip() else "ok", "chat template", note) for note in form.notes]
    return told or [Finding("ok", "chat template", "writes instruction and answer as they are")]


def _has_tokenizer(folder: Path) -> bool:
    return any((folder / name).is_file() for name in _FILES)
