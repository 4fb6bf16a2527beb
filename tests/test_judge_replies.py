"""What a server says of a reply: parts, thinking, tools, the reason of an end, and the tokens it counts."""

from __future__ import annotations

import json
from typing import Any

import pytest

from distill.judging.chat import ChatRequest, LostReplyError, Reply, UnusableReplyError
from distill.judging.completion import read_completion
from distill.judging.scores import read_scores
from distill.judging.teacher import read_response
from distill.judging.thinking import split_thinking

SCORES = '{"first": 7, "second": 8, "reason": "x"}'
REQUEST = ChatRequest("http://x/v1", {"model": "m", "messages": [{"content": "What is 3 + 4?"}], "max_tokens": 50})


def reply(content: Any, finish: Any = "stop", usage: Any = None, **message: Any) -> Reply:
    choice = {"index": 0, "finish_reason": finish, "message": {"role": "assistant", "content": content, **message}}
    return read_completion(json.dumps({"choices": [choice], "model": "m", "usage": usage}), REQUEST)


def call(arguments: Any) -> dict[str, Any]:
    return {"id": "c1", "type": "function", "function": {"name": "scores", "arguments": arguments}}


@pytest.mark.parametrize(
    "found",
    [
        reply([{"type": "text", "text": SCORES}]),
        reply([{"type": "output_text", "text": {"value": SCORES}}]),
        reply([SCORES[:10], SCORES[10:]]),
        reply({"type": "text", "text": SCORES}),
        reply([{"type": "thinking", "thinking": [{"type": "text", "text": "1 and 2"}]}, {"text": SCORES}]),
        reply(SCORES, reasoning_content="I give 1 and 2."),
        reply(None, "tool_calls", tool_calls=[call(SCORES)]),
        reply("", "tool_calls", tool_calls=[call(json.loads(SCORES))]),
        reply(None, "function_call", function_call={"name": "scores", "arguments": SCORES}),
        reply(None, reasoning_content=SCORES),
        reply('{"first": 7, "second": 8, "reason": "Answer 1 says </think> twice"}'),
        reply("<think>1 2</think>\n7 8"),
        reply("I think 1 2\n</think>\n7 8"),
        reply("[THINK]1 2[/THINK]7 8"),
    ],
)
def test_scores_are_found_where_the_server_puts_them(found: Reply) -> None:
    scores = read_scores(found)
    assert (scores.first, scores.second) == (7, 8)


@pytest.mark.parametrize(
    ("found", "said", "again"),
    [
        (
            reply(None, "length", reasoning_content="Let me see. " * 9),
            "cut at max_tokens, no scores .* thinking",
            False,
        ),
        (reply("", "MAX_TOKENS"), "cut at max_tokens, no scores in it, it is empty; raise max_tokens", False),
        (reply("<think>The first", "length"), "cut at max_tokens, its thinking has no end; raise max_tokens", False),
        (reply("Both", None, {"completion_tokens": 50}), "cut at max_tokens, no scores in it: 'Both'", False),
        (reply(None, "recitation"), "it is empty .it ended with 'recitation'", True),
        (reply(None, reasoning="7 and 8, I would say: 7 8"), "it holds thinking and no answer", True),
        (reply("<think>7 8"), "its thinking has no end", True),
        (reply([{"type": "refusal", "refusal": "No."}]), "^refusal: No.", False),
        (reply(None, "SAFETY"), "^refusal: the server's content filter", False),
    ],
)
def test_a_reply_without_scores_is_described(found: Reply, said: str, again: bool) -> None:
    with pytest.raises(UnusableReplyError, match=said) as caught:
        read_scores(found)
    assert caught.value.again is again


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("<think>a</think>\n\nSeven.", "Seven."),
        ("so 3 + 4 is 7\n</think>\n\nSeven.", "Seven."),
        ("<thinking>a</thinking>Seven.", "Seven."),
        ("<seed:think>a</seed:think>Seven.", "Seven."),
        ("◁think▷a◁/think▷Seven.", "Seven."),
        ("<|begin_of_thought|>a<|end_of_thought|>Seven.", "Seven."),
        ("<think></think><think>a <think> b</think></think>Seven.", "Seven."),
        ("<think>a mark: <think></think>Seven.", "Seven."),
        ("<|channel|>analysis<|message|>a<|end|><|start|>assistant<|channel|>final<|message|>Seven.", "Seven."),
        # Marks that are spoken of.
        ("<think>a</think>Write `</think>` there.", "Write `</think>` there."),
        ("Models write <think> first.", "Models write <think> first."),
        ("[Thinking] Seven.", "[Thinking] Seven."),
    ],
)
def test_thinking_is_no_part_of_an_answer(text: str, answer: str) -> None:
    assert split_thinking(text).answer.strip() == answer
    assert read_response(reply(text)) == answer
    assert read_response(reply(text, "length")) == answer  # cut in the answer: learned without an end


@pytest.mark.parametrize(
    ("found", "said"),
    [
        (reply("<think>The user", "length"), "cut at max_tokens, its thinking has no end"),
        (reply("<think>a</think>\n", "length"), "cut at max_tokens, it holds thinking and no answer"),
        (reply(None, "length", reasoning_content="Hm."), "cut at max_tokens, it holds thinking and no answer"),
        (reply(None, "tool_calls", tool_calls=[call("{}")]), "it calls a tool and says nothing"),
        (reply([]), "it is empty"),
    ],
)
@pytest.mark.parametrize("thinking", ["strip", "keep"])
def test_a_response_without_an_answer_teaches_nothing(found: Reply, said: str, thinking: Any) -> None:
    with pytest.raises(UnusableReplyError, match=said):
        read_response(found, thinking)


def test_thinking_may_be_kept() -> None:
    kept = "<think>\na\n</think>\n\nSeven."
    assert read_response(reply("Seven.", reasoning_content="a"), "keep") == kept
    assert read_response(reply(kept), "keep") == kept
    assert read_response(reply("a\n</think>\n\nSeven."), "keep") == kept
    assert read_response(reply("Seven."), "keep") == "Seven."


@pytest.mark.parametrize(
    ("usage", "tokens"),
    [
        ({"prompt_tokens": 40, "completion_tokens": 9}, (40, 9)),
        ({"prompt_tokens": 40.0, "completion_tokens": 900}, (40, 900)),  # thinking that is billed and not shown
        ({"prompt_tokens": -100_000, "completion_tokens": -1}, (12, 34)),
        ({"prompt_tokens": True, "completion_tokens": "9"}, (12, 34)),
        ({"prompt_tokens": 10**12, "completion_tokens": 10**9}, (12, 34)),
        ({"prompt_tokens": 0, "completion_tokens": None}, (12, 34)),
        ([7], (12, 34)),
    ],
)
def test_counts_that_cannot_be_are_estimated(usage: Any, tokens: tuple[int, int]) -> None:
    found = reply("It is seven. " * 6, usage=usage)
    assert (found.tokens_in, found.tokens_out) == tokens


@pytest.mark.parametrize(
    "body", ['{"choices": [{"message": "x"}]}', '{"choices": [{}]}', "{" * 10**5, '{"choices": [5]}']
)
def test_what_is_no_completion_is_lost(body: str) -> None:
    with pytest.raises(LostReplyError, match="not a chat completion"):
        read_completion(body, REQUEST)


def test_an_error_within_a_completion_is_lost() -> None:
    body = json.dumps({"choices": [{"error": {"code": 502, "message": "upstream"}, "message": {"content": "It"}}]})
    with pytest.raises(LostReplyError, match="the server broke off: upstream"):
        read_completion(body, REQUEST)
