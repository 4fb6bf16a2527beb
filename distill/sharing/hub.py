"""Push an export to the Hugging Face hub, with the token of the environment and no other."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from distill.project.errors import ModelError, SettingsError

TOKEN = "HF_TOKEN"
_REPOSITORY = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*")


def require_token(repository: str, environment: Mapping[str, str]) -> str:
    """The token to push with, checked before any work. Raises: SettingsError when something is missing."""
    if not _REPOSITORY.fullmatch(repository):
        raise SettingsError(f"`{repository}` is no repository of the hub; write it as owner/name")
    token = environment.get(TOKEN, "").strip()
    if not token:
        raise SettingsError(
            f"pushing to {repository} needs a token in the environment: export {TOKEN}=… (with write access, from "
            "the hub's settings, Access Tokens) and run the same command"
        )
    return token


def push(folder: Path, repository: str, token: str, public: bool) -> str:
    """Upload an export, into a private repository unless it exists or is to be `public`; return its address.

    Raises: ModelError with the hub's own reason, which never holds the token.
    """
    from huggingface_hub import HfApi

    # The base class of whichever HTTP library this version of the hub's client uses; not re-exported by name.
    from huggingface_hub.errors import HTTPError  # type: ignore[attr-defined]

    api = HfApi(token=token)
    try:
        api.create_repo(repository, private=not public, exist_ok=True)
        return str(api.upload_folder(repo_id=repository, folder_path=folder, commit_message=f"Export {folder.name}"))
    except (HTTPError, OSError, ValueError) as error:
        reason = " ".join(str(error).split()).replace(token, "…")[:300] or type(error).__name__
        raise ModelError(
            f"the hub did not take {repository} ({reason}); the folder {folder} is whole: check the network and that "
            f"{TOKEN} may write there, then run the same command"
        ) from None
