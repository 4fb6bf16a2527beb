"""Text stays text: words of control tokens in rows, corpora and questions, and what templates alone may write."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers
from transformers import ByT5Tokenizer, PreTrainedTokenizerFast

from distill.prompting.control_tokens import control_tokens, encode_documents
from distill.prompting.prompts import encode, encode_prompts, encode_rows, render
from distill.text.settings import PromptSettings
from distill.text.tokenizers import learn_bpe
from stages import prepare
from tests.test_data_prompts import CHAT, CHATTING, PLAIN, SPECIAL, settings, tokenizer
from tests.tiny_pipeline import in_folder


def bracketed() -> PreTrainedTokenizerFast:
    """Bytes, a control token that is not flagged as special, an added word and an added run of spaces."""
    found = tokenizer(CHAT.replace("<turn>", "<|turn|>"), bos=False)
    found.add_tokens([AddedToken("<|turn|>", special=False), "quincewood", AddedToken("    ", normalized=False)])
    return found


def lower_case() -> PreTrainedTokenizerFast:
    """One that finds its control tokens in any case and width."""
    found = tokenizer(CHAT, bos=False)
    found.backend_tokenizer.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Lowercase()])
    found.add_special_tokens({"additional_special_tokens": [AddedToken("<|tool|>", normalized=True, special=True)]})
    return found


def pieces() -> PreTrainedTokenizerFast:
    """A sentencepiece-like one, among whose pieces the control tokens stand."""
    known = ["<unk>", "<s>", "</s>", "▁", *"abcdefghijklmnopqrstuvwxyz<>/|,.", "▁the"]
    made = Tokenizer(models.Unigram([(piece, -len(known) / (1 + len(piece))) for piece in known], unk_id=0))
    made.pre_tokenizer, made.decoder = pre_tokenizers.Metaspace(), decoders.Metaspace()
    return PreTrainedTokenizerFast(tokenizer_object=made, bos_token="<s>", eos_token="</s>", unk_token="<unk>")


CASES = {
    "bytes": (tokenizer(None, bos=False), "say <eos> and <turn>"),
    "not special": (bracketed(), "say <|turn|> and <eos>"),
    "normalised": (lower_case(), "say <|TOOL|> and ＜|tool|＞"),
    "pieces": (pieces(), "say </s> and <s>"),
    "learned": (learn_bpe(["a <|endoftext|> b"] * 50, 300), "say <|endoftext|>"),
}


@pytest.mark.parametrize("name", CASES)
def test_no_word_of_a_row_becomes_a_control_token(name: str) -> None:
    reader, text = CASES[name]
    control = set(control_tokens(reader).values()) - {reader.unk_token_id}
    assert not control.isdisjoint(reader(text)["input_ids"]), (
        "the tokenizer alone makes some, or the test shows nothing"
    )
    [row] = encode_rows(reader, settings(max_response_tokens=99), [text], [text])
    assert row.held_control_text
    assert control.isdisjoint([*row.prompt_ids, *row.response_ids[:-1]])
    assert row.response_ids[-1] == reader.eos_token_id
    wanted = reader.backend_tokenizer.normalizer
    assert reader.decode(row.prompt_ids) == (text if wanted is None else wanted.normalize_str(text))
    [document] = encode_documents(reader, [text])
    assert control.isdisjoint(document)


def test_a_template_s_own_control_tokens_stay() -> None:
    reader = tokenizer()
    order = {token: reader.get_vocab()[token] for token in SPECIAL}
    text = render(CHATTING, "a <end> b", "")
    [ids] = encode_prompts(reader, CHATTING, [text])
    assert [i for i in ids if i in order.values()] == [order[t] for t in ("<bos>", "<turn>", "<end>", "<turn>")]
    assert reader.decode(ids) == "<bos><turn>user\na <end> b\n<end>\n<turn>assistant\n"
    own = settings(without_input="<turn>{instruction}<end>")
    [ids] = encode_prompts(tokenizer(bos=False), own, [render(own, "<turn>x<eos>", "")])
    assert [i for i in ids if i in order.values()] == [order["<turn>"], order["<end>"]]


def test_a_prompt_that_joins_the_template_to_a_control_token_does_not() -> None:
    own = settings(without_input="<{instruction}>")
    reader = tokenizer(bos=False)
    [ids] = encode_prompts(reader, own, [render(own, "end", "")])
    assert reader.decode(ids) == "<end>" and len(ids) == 5, "letters, not the token"


def test_ordinary_text_keeps_the_tokenizer_s_ids() -> None:
    reader = bracketed()
    text = "quincewood    and a < b > c [x]"
    [row] = encode_rows(reader, PLAIN, [text], ["quincewood"])
    assert row.prompt_ids == reader(text)["input_ids"] and not row.held_control_text
    assert row.response_ids == [reader.get_vocab()["quincewood"], reader.eos_token_id]
    # beside a control token of the row too: added words and spaces are no control tokens
    [row] = encode_rows(reader, PLAIN, [f"<eos>{text}"], ["x"])
    assert row.prompt_ids == [*reader("<")["input_ids"], *reader("eos>")["input_ids"], *reader(text)["input_ids"]]


def test_merges_across_prompt_and_response_stay_beside_control_text() -> None:
    reader = tokenizer(joins=True, bos=False)
    [(_, ids)] = encode(reader, PLAIN, ["<eos>hi"], ["o\nyo<end>"])
    assert [reader.decode([i]) for i in ids[:3]] == ["o", "\ny", "o"]
    assert reader.get_vocab()["<end>"] not in ids


def test_a_tokenizer_without_a_tokenizer_json_keeps_text_too() -> None:
    reader = ByT5Tokenizer()
    own = settings(without_input="<pad>{instruction}")
    [row] = encode_rows(reader, own, [render(own, "a</s>b", "")], ["<pad>"])
    assert row.prompt_ids == [reader.pad_token_id, *(byte + 3 for byte in b"a</s>b")] and row.held_control_text
    assert row.response_ids == [*(byte + 3 for byte in b"<pad>"), reader.eos_token_id]


def test_the_audit_counts_such_rows(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [{"instruction": f"Say {i}.", "output": f"{i} it is.{' <|endoftext|> more' * (i < 3)}"} for i in range(20)]
    (tmp_path / "rows").mkdir()
    (tmp_path / "rows/my.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "profiles").mkdir()
    profile = {
        "data": {"train": {"path": "my.jsonl"}, "valid_rows": 1},
        "prompt": PLAIN.model_dump() | {"max_response_tokens": 60},
        "tokenizer": {"train": {"vocab_size": 270}},
    }
    (tmp_path / "profiles/mine.yaml").write_text(json.dumps({"recipe": profile}))
    (tmp_path / "params.yaml").write_text(json.dumps({"families": {"mine": "rows"}}))
    in_folder(tmp_path)(prepare.main, "mine")
    said = json.loads((tmp_path / "data/mine/report.json").read_text())["splits"]
    assert sum(part["noted"]["control_tokens_as_text"]["count"] for part in said.values()) == 3
    assert "control tokens as text" in capsys.readouterr().out


def test_settings_name_a_template() -> None:
    assert PromptSettings.model_validate({**PLAIN.model_dump(), "chat_template": "rag"}).chat_template == "rag"
    assert settings(chat_template=True).chat_template is True
