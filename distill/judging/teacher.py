"""A server in the teacher's place: the students' training prompts as requests, and their usable responses."""

from __future__ import annotations

from distill.judging.chat import ChatRequest, Reply, chat_request, lack_of, question_of, refuse_refusal, useless
from distill.judging.settings import ApiPseudoSettings, Thinking
from distill.judging.thinking import split_thinking


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


def read_response(reply: Reply, thinking: Thinking = "strip") -> str:
    """The response's text, with its thinking or without.

    Raises: UnusableReplyError for a refusal, or a reply without an answer: a student would learn to stop there.
    """
    refuse_refusal(reply)
    thought = split_thinking(reply.text)
    if not thought.closed:
        raise useless(reply, "its thinking has no end")
    if not (answer := thought.answer.strip()):
        raise useless(reply, "it holds thinking and no answer" if thought.thinking else lack_of(reply))
    if thinking == "strip":
        return answer
    if thought.thinking:
        return reply.text.strip() if thought.opened else f"<think>\n{reply.text.strip()}"
    return f"<think>\n{reply.reasoning.strip()}\n</think>\n\n{answer}" if reply.reasoning.strip() else answer
