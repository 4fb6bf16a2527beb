"""From the status of an answer without a reply to the error that says what it means and what to do."""

from __future__ import annotations

from collections.abc import Mapping

from distill.judging.chat import NotTakenError, RejectedError, retry_after
from distill.judging.completion import error_words
from distill.judging.secrets import Redactor
from distill.judging.settings import KEY_VARIABLE, ChatSettings
from distill.project.errors import DistillError

_AGAIN = "all replies so far are kept: run the same command to continue"


def status_fault(
    status: int, headers: Mapping[str, str], body: str, chat: ChatSettings, redactor: Redactor, proxy: str = ""
) -> Exception:
    """The error to raise: for one request that may be tried again, for one that may not, or for the whole run."""
    said = redactor.message(error_words(body))
    if 300 <= status < 400:
        target = redactor.message(headers.get("location", "another address"))
        return DistillError(f"{chat.base_url} sends requests on to {target}; write the final address in `base_url`")
    if status == 401:  # the words may show a part of the key: they are left out
        return DistillError(f"{chat.base_url} does not accept the key ({status}); correct {KEY_VARIABLE}")
    if status == 402 or "insufficient_quota" in body:
        return DistillError(f"the account has no credit left ({status}: {said}); add some; {_AGAIN}")
    if status == 403:
        return DistillError(
            f"{chat.base_url}{proxy} does not accept the key ({status}), with the words: {said}; correct {KEY_VARIABLE}"
        )
    if status == 404:
        return DistillError(
            f"{chat.base_url} does not know the model `{chat.model}`, or the address lacks its /v1 ({said}); "
            "correct `model` or `base_url`"
        )
    if status == 407:
        return DistillError(f"{proxy.strip() or 'a proxy'} wants a name and a password; write them into its variable")
    if status in (408, 409, 425, 429) or status >= 500:
        return NotTakenError(f"status {status}{proxy}", retry_after(headers), busy=status == 429, said=said)
    return RejectedError(f"status {status}: {said}")
