"""A server in the teacher's place: the students' training prompts as requests, and their usable responses."""

from __future__ import annotations

from distill.judging.chat import ChatRequest, Reply, UnusableReplyError, chat_request, question_of, refuse_refusal
from distill.judging.settings import ApiPseudoSettings

CUT = "length"
"""`finish` of a reply that ended at the limit and not by itself."""


def response_request(settings: ApiPseudoSettings, instruction: str, input: str, sample: int) -> ChatRequest:
    """Ask for the `sample`-th response to one training prompt, without the students' own template."""
    sampling = settings.sampling
    return chat_request(
        settings,
        question_of(instruction, input),
        sample,
        temperature=sampling.temperature,
        top_p=None if sampling.top_p == 1 else sampling.top_p,  # not every server knows it
    )


def read_response(reply: Reply) -> str:
    """The response's text. Raises: UnusableReplyError for a refusal or an empty one."""
    refuse_refusal(reply)
    text = reply.text.strip()
    if not text:
        raise UnusableReplyError("reply: it is empty", again=True)
    return text
