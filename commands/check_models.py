"""Whether the models that a profile names can be loaded and share the family's tokenizer: seconds, before hours.

What cannot be looked at now (the hub is out of reach) is left to the stage `base`, which looks again before it trains.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from pathlib import Path

from distill.models.origins import origin, require_weights
from distill.preflight.decoding import undecodable
from distill.project.errors import ModelError, SettingsError
from distill.project.network import connection, proxy_fault
from distill.project.references import ModelReference, Reference
from distill.text.settings import PromptSettings, TokenizerSettings

_SECONDS = 5.0


def family_tokenizer(family: str, settings: TokenizerSettings) -> Reference | None:
    """Where a family's tokenizer can be read now; None for one that is still to be learned."""
    if settings.source is not None:
        return settings.source
    learned = Path("data") / family / "tokenizer"
    return Reference(path=str(learned)) if learned.is_dir() else None


def unfit_models(sources: Mapping[str, ModelReference], family: Reference | None, prompt: PromptSettings) -> list[str]:
    """One fault for each place whose model cannot be loaded, or has another tokenizer than the family, and for a chat
    template that does not do what `prompt` asks of it.
    """
    chat = prompt.chat_template is not False
    if not sources and not (chat and family is not None):
        return []
    # Only now: transformers takes seconds to import, and most families learn their models here.
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    from distill.models.loading import rehearse
    from distill.models.parts import require_vocabulary
    from distill.prompting.chat import chat_form
    from distill.text.tokenizers import load_tokenizer, require_same_tokenizer

    named = [*sources.values(), *([] if family is None else [family])]
    of_hub = any(source.hub is not None for source in named)
    proxy = proxy_fault() if of_hub else None
    cached = of_hub and (proxy is not None or not _hub_answers())
    faults: list[str] = []
    unseen: list[str] = []
    shared = None
    if family is not None:
        try:
            shared = load_tokenizer(family, cached)
        except ModelError as error:
            (unseen if cached and family.hub is not None else faults).append(f"recipe.tokenizer: {error}")
    if chat and shared is not None:
        try:
            for told in chat_form(shared, prompt.chat_template, prompt.system).notes:
                print(f"note: {told}", file=sys.stderr)
        except ModelError as error:
            faults.append(f"recipe.prompt: {error}")
    for place, source in sources.items():
        try:
            base = origin(source).base
            # The whole message for a GGUF file, and pickles, before a tokenizer is missed there.
            if base.path is not None:
                require_weights(Path(base.path))
            own = load_tokenizer(base, cached)
            model = rehearse(source, cached=cached)
        except ModelError as error:
            (unseen if cached and source.hub is not None else faults).append(f"{place}: {error}")
            continue
        try:
            if shared is not None:
                require_same_tokenizer(shared, own)
                require_vocabulary(model, shared, str(source))
        except ModelError as error:
            faults.append(f"{place}: {error}")
        if (fault := undecodable(base, cached)) is not None:
            faults.append(f"{place}: {fault}")
    if unseen and proxy is not None:
        faults.append(proxy)
    elif unseen:
        print(
            f"note: the hub is out of reach, so {len(unseen)} model(s) were not looked at: {unseen[0]}", file=sys.stderr
        )
    return faults


def _hub_answers() -> bool:
    """Within seconds, where the hub's own client would try for minutes."""
    import httpx2 as httpx
    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE:
        return False
    try:
        httpx.head(constants.ENDPOINT, timeout=_SECONDS, **connection(constants.ENDPOINT))
    except (httpx.HTTPError, httpx.InvalidURL, SettingsError):
        return False
    return True
