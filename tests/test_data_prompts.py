"""Prompts as token ids: with and without BOS, as a chat or not, and never other ids in training than in use."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from distill.data.coverage import require_readable, unreadable_rows
from distill.data.rows import Row
from distill.project.errors import ModelError, SettingsError
from distill.project.settings import parse
from distill.prompting.prompts import encode, encode_prompts, fit_prompts, render
from distill.text.settings import PromptSettings, TokenizerSettings
from distill.text.tokenizers import END_OF_TEXT, build_tokenizer, learn_bpe, load_tokenizer, require_same_tokenizer

SPECIAL = ["<eos>", "<bos>", "<turn>", "<end>"]
CHAT = (
    "{{ bos_token }}{% for m in messages %}<turn>{{ m['role'] }}\n{{ m['content'] }}<end>\n{% endfor %}"
    "{% if add_generation_prompt %}<turn>assistant\n{% endif %}"
)
NO_SYSTEM = "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system turn here') }}{% endif %}" + CHAT


def tokenizer(chat: str | None = CHAT, *, bos: bool = True, joins: bool = False) -> PreTrainedTokenizerFast:
    """Bytes as tokens; with `joins` a newline and the letter after it are one token."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    merges = [("Ċ", "y")] if joins else []  # Ċ is the newline
    words = [*SPECIAL, *letters, *("".join(pair) for pair in merges)]
    made = Tokenizer(models.BPE({word: i for i, word in enumerate(words)}, merges))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    made.decoder = decoders.ByteLevel()
    made.add_special_tokens(SPECIAL)
    if bos:
        made.post_processor = processors.TemplateProcessing(single="<bos> $A", special_tokens=[("<bos>", 1)])
    found = PreTrainedTokenizerFast(tokenizer_object=made, eos_token="<eos>", bos_token="<bos>")
    found.chat_template = chat
    return found


def settings(**given: object) -> PromptSettings:
    place = {"with_input": "{instruction} {input}\n", "without_input": "{instruction}\n"}
    return PromptSettings.model_validate({**place, "max_prompt_tokens": 40, "max_response_tokens": 9, **given})


PLAIN, CHATTING = settings(), settings(chat_template=True)


@pytest.mark.parametrize("bos", [True, False])
def test_a_prompt_begins_with_bos_where_the_tokenizer_says_so(bos: bool) -> None:
    reader = tokenizer(bos=bos)
    [(prompt_ids, response_ids)] = encode(reader, PLAIN, ["hi\n"], ["yo"])
    assert reader.decode(prompt_ids) == ("<bos>" if bos else "") + "hi\n"
    assert reader.decode(response_ids) == "yo<eos>", "no BOS in the middle"
    assert encode_prompts(reader, PLAIN, ["hi\n"]) == [prompt_ids]


@pytest.mark.parametrize("bos", [True, False])
def test_a_chat_has_the_special_tokens_of_its_template_once(bos: bool) -> None:
    reader = tokenizer(bos=bos)
    [(prompt_ids, response_ids)] = encode(reader, CHATTING, [render(CHATTING, "hi", "")], ["yo"])
    assert reader.decode(prompt_ids) == "<bos><turn>user\nhi\n<end>\n<turn>assistant\n"
    assert reader.decode(response_ids) == "yo<eos>"
    assert prompt_ids.count(reader.get_vocab()["<turn>"]) == 2


def test_a_system_turn_comes_first() -> None:
    spoken = settings(chat_template=True, system="Be brief.")
    [ids] = encode_prompts(tokenizer(), spoken, ["hi"])
    assert str(tokenizer().decode(ids)).startswith("<bos><turn>system\nBe brief.<end>\n<turn>user\nhi<end>")
    with pytest.raises(ModelError, match=r"no system turn here\); remove `prompt.system`"):
        encode_prompts(tokenizer(NO_SYSTEM), spoken, ["hi"])
    with pytest.raises(SettingsError, match="set `chat_template: true` or remove it"):
        parse({**PLAIN.model_dump(), "system": "Be brief."}, PromptSettings, "profile: prompt")


def test_a_chat_needs_a_template() -> None:
    with pytest.raises(ModelError, match="has no chat template; turn it off"):
        encode(tokenizer(None), CHATTING, ["hi"], ["yo"])


@pytest.mark.parametrize("prompt", [PLAIN, CHATTING], ids=["plain", "chat"])
def test_where_prompt_and_response_would_join_the_prompt_keeps_its_ids(prompt: PromptSettings) -> None:
    """Trap 7: jointly tokenised, the last newline of the prompt and the y of the response are one token."""
    reader = tokenizer(joins=True)
    text = render(prompt, "hi", "")
    rows = encode(reader, prompt, [text, text], ["yo", "oy"])
    alone = encode_prompts(reader, prompt, [text])[0]
    assert [ids for ids, _ in rows] == [alone, alone]
    assert [reader.decode(ids) for _, ids in rows] == ["yo<eos>", "oy<eos>"]
    whole = reader(f"{reader.decode(alone)}yo", add_special_tokens=False)["input_ids"]
    assert whole[: len(alone)] != alone, "this tokenizer joins them, or the test shows nothing"


def test_prompt_and_response_are_tokenised_together_where_they_do_not_join() -> None:
    """A pair that joins inside the response stays one token, in a chat too."""
    reader = tokenizer(joins=True)
    for prompt in (PLAIN, CHATTING):
        [(_, ids)] = encode(reader, prompt, ["hi"], ["o\nyo"])
        assert [reader.decode([i]) for i in ids] == ["o", "\ny", "o", "<eos>"]


def test_a_long_prompt_keeps_its_first_tokens_and_a_chat_its_end_too() -> None:
    reader = tokenizer()
    long = "abcdefgh" * 9
    [plain] = fit_prompts(reader, PLAIN, encode_prompts(reader, PLAIN, [long]))
    assert reader.decode(plain) == "<bos>" + long[:39]
    [ids, short] = fit_prompts(reader, CHATTING, encode_prompts(reader, CHATTING, [long, "hi"]))
    assert len(ids) == 40
    whole = str(reader.decode(ids))
    assert whole.startswith("<bos><turn>user\nabcdefgh")
    assert whole.endswith("<end>\n<turn>assistant\n")
    assert reader.decode(short) == "<bos><turn>user\nhi<end>\n<turn>assistant\n"
    narrow = settings(chat_template=True, max_prompt_tokens=10)
    prompts = encode_prompts(reader, narrow, [long])
    with pytest.raises(ModelError, match="raise `max_prompt_tokens`"):
        fit_prompts(reader, narrow, prompts)


def test_rows_are_cut_at_the_response_limit_or_with_their_prompt() -> None:
    """Tokens are bytes: "hi\n" is 3 of them, or 4 with BOS; "0123456789" is 10, or 11 with the end."""
    reader = tokenizer(bos=False)

    def cut(response: str, **limits: int) -> str:
        [(_, ids)] = encode(reader, settings(**limits), ["hi\n"], [response])
        return str(reader.decode(ids))

    assert cut("0123456789") == "012345678", "9 by the one limit"
    assert cut("01234567") == "01234567<eos>"
    assert cut("0123456789", max_prompt_tokens=5, max_sequence_tokens=13) == "0123456789"
    assert cut("0123456789", max_prompt_tokens=5, max_sequence_tokens=14) == "0123456789<eos>"
    assert cut("0123456789", max_prompt_tokens=5, max_sequence_tokens=6) == "012"
    with_bos = encode(tokenizer(), settings(max_prompt_tokens=5, max_sequence_tokens=14), ["hi\n"], ["0123456789"])
    assert len(with_bos[0][0]) == 4 and len(with_bos[0][1]) == 10, "BOS belongs to the prompt's tokens"


def test_a_prompt_to_be_cut_leaves_the_response_what_the_cut_prompt_would() -> None:
    """An evaluation prompt over its limit keeps `max_prompt_tokens`; its reference must not vanish."""
    reader, limits = tokenizer(bos=False), settings(max_prompt_tokens=5, max_sequence_tokens=8)
    [(prompt_ids, response_ids)] = encode(reader, limits, ["abcdefghijklmnop"], ["0123456789"])
    [fitted] = fit_prompts(reader, limits, [prompt_ids])
    assert reader.decode(fitted + response_ids) == "abcde012"


def test_the_longest_sequence_is_of_training_or_of_generation() -> None:
    assert settings().longest_sequence == 49
    assert settings(max_sequence_tokens=41).longest_sequence == 49
    assert settings(max_sequence_tokens=64).longest_sequence == 64
    assert [settings().response_limit(n) for n in (1, 40, 99)] == [9, 9, 9]
    assert [settings(max_sequence_tokens=64).response_limit(n) for n in (1, 40, 99)] == [63, 24, 24]


def test_a_sequence_no_longer_than_a_prompt_is_refused() -> None:
    with pytest.raises(SettingsError, match=r"`max_prompt_tokens` \(40\) no response; raise the first"):
        parse({**PLAIN.model_dump(), "max_sequence_tokens": 40}, PromptSettings, "profile: prompt")


def test_the_token_that_ends_a_turn_can_be_the_end_of_a_response(tmp_path: Path) -> None:
    tokenizer().save_pretrained(tmp_path)
    chosen = TokenizerSettings.model_validate({"source": str(tmp_path), "eos_token": "<end>"})
    built = build_tokenizer(chosen, [])
    built.save_pretrained(tmp_path / "family")
    reader = load_tokenizer(tmp_path / "family")
    [(_, ids)] = encode(reader, CHATTING, ["hi"], ["yo"])
    assert reader.decode(ids) == "yo<end>"
    with pytest.raises(ModelError, match=r"has no token '<stop>'; correct `tokenizer\.eos_token`"):
        build_tokenizer(chosen.model_copy(update={"eos_token": "<stop>"}), [])


def test_a_tokenizer_without_a_pad_token_gets_one(tmp_path: Path) -> None:
    """Masks come from lengths, so any id will do."""
    bare = tokenizer()
    assert bare.pad_token is None
    bare.save_pretrained(tmp_path)
    assert load_tokenizer(tmp_path).pad_token == "<eos>"


def altered(normalizer: normalizers.Normalizer | None = None, splits: str | None = None) -> PreTrainedTokenizerFast:
    """A learned tokenizer, with another normaliser or another pre-tokenizer."""
    content = json.loads(learn_bpe(["the cat and the hat that he had at heart " * 9], 270).backend_tokenizer.to_str())
    made = Tokenizer.from_str(json.dumps(content))
    if normalizer is not None:
        made.normalizer = normalizer
    if splits is not None:
        made.pre_tokenizer = pre_tokenizers.Sequence(
            [pre_tokenizers.Split(splits, "isolated"), pre_tokenizers.ByteLevel(add_prefix_space=False)]
        )
    return PreTrainedTokenizerFast(tokenizer_object=made, eos_token=END_OF_TEXT)


OTHER_READING = {
    "case": altered(normalizers.Lowercase()),
    "accents": altered(normalizers.Sequence([normalizers.NFD(), normalizers.StripAccents()])),
    "compatible forms": altered(normalizers.NFKC()),
    "spaces": altered(normalizers.Strip()),
    "a split": altered(splits="a"),
}


@pytest.mark.parametrize("name", OTHER_READING)
def test_one_vocabulary_read_in_two_ways_is_refused(name: str) -> None:
    ours, theirs = altered(), OTHER_READING[name]
    assert ours.get_vocab() == theirs.get_vocab()
    require_same_tokenizer(ours, altered())
    with pytest.raises(ModelError, match=r"have the same tokens but read text differently \(ids .* is the same"):
        require_same_tokenizer(ours, theirs)


def test_other_merges_of_one_vocabulary_are_refused() -> None:
    words = {word: place for place, word in enumerate(["<eos>", "a", "b", "c", "ab", "bc"])}
    first, second = (
        PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.BPE(words, merges)), eos_token="<eos>")
        for merges in ([("a", "b"), ("b", "c")], [("b", "c"), ("a", "b")])
    )
    with pytest.raises(ModelError, match=r"have the same tokens but read text differently \(ids \[4, 3"):
        require_same_tokenizer(first, second)


def test_tokenizers_are_compared_on_the_user_s_rows_too() -> None:
    theirs = altered(normalizers.Replace("quincewood", "wood"))
    require_same_tokenizer(altered(), theirs, ["other words"])
    with pytest.raises(ModelError, match="'a quincewood table'"):
        require_same_tokenizer(altered(), theirs, ["a quincewood table"])


def unreadable(reader: PreTrainedTokenizerFast, *answers: str) -> dict[str, list[int]]:
    rows = [Row(number, "Say it.", "", (answer,), "") for number, answer in enumerate(answers, start=1)]
    return unreadable_rows(reader, rows, encode(reader, PLAIN, ["Say it.\n"] * len(rows), answers))


def test_rows_that_a_tokenizer_cannot_hold_are_counted() -> None:
    folding = tokenizer(None)
    folding.backend_tokenizer.normalizer = normalizers.Sequence([normalizers.NFD(), normalizers.StripAccents()])
    assert unreadable(folding, "one", "ñé", " a  b\n") == {"unknown_tokens": [], "text_not_returned": [2]}
    assert unreadable(tokenizer(None), "one", "ñé", "a long answer that is cut ñ", "<eos>") == {
        "unknown_tokens": [],
        "text_not_returned": [],
    }
    words = Tokenizer(
        models.WordLevel({"<unk>": 0, "<eos>": 1, "Say": 2, "it": 3, ".": 4, "one": 5}, unk_token="<unk>")
    )
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    knows_few = PreTrainedTokenizerFast(tokenizer_object=words, eos_token="<eos>", unk_token="<unk>")
    assert unreadable(knows_few, "one", "one two") == {"unknown_tokens": [2], "text_not_returned": [2]}


def test_a_tokenizer_that_loses_a_tenth_of_the_rows_is_refused() -> None:
    require_readable("mine", 20, {"unknown_tokens": [3], "text_not_returned": [3, 9]})
    with pytest.raises(
        ModelError, match=r"cannot hold 3 of the 20 rows of mine \(the first is row 3\): 1 have text .* 2"
    ):
        require_readable("mine", 20, {"unknown_tokens": [3], "text_not_returned": [9, 11]})
