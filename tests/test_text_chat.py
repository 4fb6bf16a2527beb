"""Chat templates on a probe: those that work in some way work, and the others are refused in a sentence."""

from __future__ import annotations

import resource
import time
from pathlib import Path

import pytest

from commands.adopt_models import _form
from commands.check_models import unfit_models
from distill.preflight.tokenizers import chat_finding
from distill.project.errors import ModelError
from distill.project.references import Reference
from distill.prompting.chat import chat_form
from distill.prompting.prompts import encode_prompts
from tests.test_data_prompts import CHAT, CHATTING, settings, tokenizer

TURNS = "{%% for m in messages %%}<turn>{{ m.role }}\n%s<end>\n{%% endfor %%}"
OPEN = "{% if add_generation_prompt %}<turn>assistant\n{% endif %}"
PARTS = TURNS % "{% for p in m.content %}{% if p.type == 'text' %}{{ p.text }}{% endif %}{% endfor %}" + OPEN
RENDERED = "<turn>user\nhi<end>\n<turn>assistant\n"


def template(content: str = "{{ m.content }}", before: str = "", opening: str = OPEN) -> str:
    return before + TURNS % content + opening


WORKING = {
    "text": template(),
    "parts": PARTS,
    "first part": template("{{ m.content[0].text }}"),
    "trimmed": template("{{ m.content | trim }}"),
    "tools": template(before="{% for tool in tools %}{{ tool.name }}{% endfor %}"),
    "documents": template(before="{% if documents | length > 0 %}{{ documents[0].title }}{% endif %}"),
    "user last": template(before="{% if messages[-1].role != 'user' %}{{ raise_exception('no') }}{% endif %}"),
    "answer as text": template("{% if m.role == 'user' %}{{ m.content[0].text }}{% else %}{{ m.content }}{% endif %}"),
}


@pytest.mark.parametrize("name", WORKING)
def test_a_template_is_called_the_way_it_wants(name: str) -> None:
    reader = tokenizer(WORKING[name], bos=False)
    [ids] = encode_prompts(reader, CHATTING, ["hi"])
    assert reader.decode(ids) == RENDERED
    form = chat_form(reader, True, None)
    assert (form.end_of_turn, form.notes) == ("<end>", [])


REFUSED = {
    "broken": ("{% for m in messages %}{{ m.content }}{% endif %}", r"cannot be rendered \(.*endif"),
    "undefined": (template(before="{{ a.b.c }}"), r"cannot be rendered \('a' is undefined\)"),
    "wants tools": (template(before="{% if not tools %}{{ raise_exception('tools') }}{% endif %}"), r"\(tools\)"),
    "drops the instruction": (template("{{ m.text }}"), "leaves out or changes the instruction"),
    "changes it": (template("{{ m.content | upper }}"), "leaves out or changes the instruction"),
    "escapes it": (template("{{ m.content | e }}"), "leaves out or changes the instruction"),
    "drops the answer": (template("{% if m.role == 'user' %}{{ m.content }}{% endif %}"), "cannot write an answer"),
    "wants a system turn": (
        template(before="{% if messages[0].role != 'system' %}{{ raise_exception('first') }}{% endif %}"),
        r"asks for a system turn \(first\); write one: `prompt.system",
    ),
    "calls itself": ("{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", "recursion"),
    "no end": (template(before="{% for a in range(99999) %}" * 2 + "{% endfor %}" * 2), r"takes more than \d+ s"),
    "no room": (template(before="{{ 'a' * 10 ** 11 }}"), "MemoryError"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_template_that_cannot_be_used_is_refused_in_a_sentence(name: str) -> None:
    written, reason = REFUSED[name]
    began = time.process_time()
    with pytest.raises(ModelError, match=reason):
        encode_prompts(tokenizer(written), CHATTING, ["hi"])
    assert time.process_time() - began < 5, "the probe runs elsewhere, within limits"


def test_a_limit_that_the_machine_sets_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    """As `ulimit -v` does, which nobody but root may lift again."""
    machine, set_limit = 1 << 45, resource.setrlimit

    def only_lower(kind: int, limits: tuple[int, int]) -> None:
        if limits[1] != machine or limits[0] > machine:
            raise ValueError("not allowed to raise maximum limit")
        set_limit(kind, (limits[0], resource.RLIM_INFINITY))

    monkeypatch.setattr(resource, "getrlimit", lambda _: (machine, machine))
    monkeypatch.setattr(resource, "setrlimit", only_lower)
    assert chat_form(tokenizer(WORKING["text"], bos=False), True, None).end_of_turn == "<end>"
    with pytest.raises(ModelError, match="MemoryError"):
        chat_form(tokenizer(REFUSED["no room"][0]), True, None)


def test_one_of_several_templates_is_named() -> None:
    reader = tokenizer(bos=False)
    reader.chat_template = {"rag": template(), "tool_use": PARTS}
    with pytest.raises(ModelError, match=r"templates rag, tool_use, and none of them is the default; name one: .* rag"):
        chat_form(reader, True, None)
    assert chat_form(reader, "tool_use", None).parts
    reader.chat_template = {"default": template(), "tool_use": PARTS}
    assert not chat_form(reader, True, None).parts


def test_a_system_turn_that_vanishes_is_refused() -> None:
    reader = tokenizer(template().replace("in messages", "in messages if m.role != 'system'"))
    with pytest.raises(ModelError, match=r"leaves out `prompt\.system`; remove it"):
        encode_prompts(reader, settings(chat_template=True, system="Be brief."), ["hi"])


def test_a_row_that_a_template_changes_is_refused() -> None:
    reader = tokenizer(template("{{ m.content.split('</think>')[-1] }}"))
    with pytest.raises(ModelError, match="does not write a row as it is, which begins 'a</think>b'"):
        encode_prompts(reader, CHATTING, ["fine", "a</think>b"])


def test_a_template_may_write_something_else_for_another_row() -> None:
    reader = tokenizer(template(before="{% if 'x' in messages[0].content %}!{% endif %}"), bos=False)
    assert [reader.decode(ids) for ids in encode_prompts(reader, CHATTING, ["hi", "x <end>"])] == [
        RENDERED,
        "!" + RENDERED.replace("hi", "x <end>"),
    ]


def test_what_a_template_adds_unasked_is_said() -> None:
    default = "{% if messages[0].role != 'system' %}<turn>system\nI am nice.<end>\n{% endif %}"
    form = chat_form(tokenizer(template(before=default), bos=False), True, None)
    assert form.notes == [
        "the chat template adds a system turn to every row (10 tokens): 'I am nice.'; `prompt.system` replaces it, "
        "and an empty one leaves it out"
    ]
    emptied = chat_form(tokenizer(template(before=default), bos=False), True, "")
    assert emptied.open("hi") == "<turn>system\n<end>\n" + RENDERED and emptied.notes == []
    thinking = chat_form(tokenizer(template(opening=OPEN.replace("assistant\n", "assistant\n<think>"))), True, None)
    assert "opens every answer with '<think>'" in thinking.notes[0]


@pytest.mark.parametrize(
    ("behind", "end"),
    [
        ("<end>", "<end>"),
        ("\n<end>", "<end>"),
        (" <eos>", "<eos>"),
        ("", None),
        ("done", None),
        ("<end><eos>", "<end>"),
    ],
)
def test_the_end_of_a_turn_is_what_stands_behind_the_answer(behind: str, end: str | None) -> None:
    written = (
        "{% for m in messages %}<turn>{{ m.content }}{% if m.role == 'assistant' %}"
        + behind
        + "{% endif %}{% endfor %}"
    )
    assert chat_form(tokenizer(written), True, None).end_of_turn == end


def test_check_doctor_and_adopt_look_alike(tmp_path: Path) -> None:
    tokenizer(REFUSED["drops the instruction"][0]).save_pretrained(tmp_path)
    here = Reference(path=str(tmp_path))
    [fault] = unfit_models({}, here, CHATTING)
    assert fault.startswith("recipe.prompt: the chat template leaves out or changes the instruction")
    [finding] = chat_finding(CHATTING, here, {})
    assert finding.level == "stop" and fault.endswith(finding.text)
    [learned] = chat_finding(CHATTING, None, {})
    assert learned.level == "stop" and "set `prompt.chat_template: false`" in learned.text
    with pytest.raises(ModelError, match="or give --chat-template: the name of another, or `none` to do without"):
        _form(tokenizer(REFUSED["drops the instruction"][0]), None)
    assert _form(tokenizer(CHAT), "none") is None
    demanding = _form(tokenizer(REFUSED["wants a system turn"][0]), None)
    assert demanding is not None and demanding.system == "You are a helpful assistant."


def test_a_template_that_writes_the_day_is_told_of() -> None:
    dated = template(before="{% set day = strftime_now('%d %b %Y') %}{{ day }}\n")
    [note] = chat_form(tokenizer(dated, bos=False), True, None).notes
    assert note.startswith("the chat template writes the day into every row")
