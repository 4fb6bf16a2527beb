"""A real model, trained here to say "8 7", judging behind `transformers serve`."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from distill.judging.budget import Budget
from distill.judging.chat import chat_request
from distill.judging.prompt import fill, read_template
from distill.judging.purchases import read_purchases
from distill.judging.scores import read_scores
from distill.judging.settings import ApiPseudoSettings, BudgetSettings, ProtocolSettings, ServerSettings
from distill.judging.teacher import read_response, response_request
from stages.judge_client import get_answers

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[1]
TEMPLATE = read_template(ROOT / "judge/prompt.txt")
CHAT = (
    "{% for message in messages %}{{ message['role'] }}: {{ message['content'] }}\n{% endfor %}"
    "{% if add_generation_prompt %}assistant:{% endif %}"
)
REPLY = " 8 7"


def prompts() -> list[str]:
    return [fill(TEMPLATE, f"Say {word}.", f"{word}!", f"{word}, of course.") for word in ("hello", "bye", "yes")]


def train_judge(folder: Path) -> None:
    """A Llama of a few thousand weights that answers every chat with two scores."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    from distill.text.tokenizers import learn_bpe

    torch.manual_seed(0)
    tokenizer = learn_bpe([*prompts(), CHAT], 400)
    tokenizer.chat_template = CHAT
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=1,
        num_attention_heads=2,
        max_position_embeddings=2048,
        bos_token_id=tokenizer.eos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.eos_token_id,
    )
    model = LlamaForCausalLM(config)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    answer = [*tokenizer(REPLY)["input_ids"], tokenizer.eos_token_id]
    for step in range(200):
        turns = [{"role": "user", "content": [*prompts(), "Name a river."][step % 4]}]
        ids = tokenizer(tokenizer.apply_chat_template(turns, add_generation_prompt=True, tokenize=False))["input_ids"]
        batch = torch.tensor([ids + answer])
        labels = batch.clone()
        labels[:, : len(ids)] = -100
        loss = model(input_ids=batch, labels=labels).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    assert loss.item() < 0.1, f"the judge did not learn its line: loss {loss.item():.2f}"
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


@pytest.fixture(scope="module")
def judge(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, str]]:
    """The address of a running server and its name of the model."""
    home = tmp_path_factory.mktemp("serve")
    train_judge(home / "model")
    (home / "hub").mkdir()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = ["serve", str(home / "model"), "--host", "127.0.0.1", "--port", str(port), "--device", "cpu"]
    with (home / "log.txt").open("wb") as log:
        process = subprocess.Popen(
            [str(Path(sys.executable).with_name("transformers")), *command],
            env={**os.environ, "HF_HOME": str(home), "HF_HUB_OFFLINE": "1"},
            stdout=log,
            stderr=subprocess.STDOUT,
        )
        try:
            wait_until_healthy(f"http://127.0.0.1:{port}/health", process, home / "log.txt")
            yield f"http://127.0.0.1:{port}/v1", str(home / "model")
        finally:
            process.terminate()
            process.wait(timeout=30)


def wait_until_healthy(url: str, process: subprocess.Popen[bytes], log: Path) -> None:
    began = time.monotonic()
    while True:
        assert process.poll() is None, log.read_text(encoding="utf-8")
        assert time.monotonic() - began < 300, log.read_text(encoding="utf-8")
        try:
            with urllib.request.urlopen(url, timeout=5) as answer:
                if answer.status == 200:
                    return
        except (urllib.error.URLError, TimeoutError):
            time.sleep(0.5)


def test_a_local_model_judges_and_teaches(
    judge: tuple[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("OPENAI_API_KEY", "none")
    url, model = judge
    server = ServerSettings(concurrency=2, timeout=120)
    protocol = ProtocolSettings(model=model, base_url=url, max_tokens=20, temperature=0)
    requests = [chat_request(protocol, prompt, temperature=protocol.temperature) for prompt in prompts()]
    found = get_answers("judge", "verdicts", requests, read_scores, protocol, BudgetSettings(), server)
    for request in requests:
        reply = found[request.key].reply
        assert reply is not None, found[request.key].unanswered
        scores = read_scores(reply)
        assert (scores.first, scores.second) == (8, 7)
        assert reply.tokens_in > 100
        assert reply.tokens_out >= 2

    pseudo = ApiPseudoSettings.model_validate({"from": "api", "model": model, "base_url": url, "max_tokens": 20})
    wanted = [response_request(pseudo, "Name a river.", "", sample) for sample in range(2)]
    taught = get_answers("teacher", "pseudo", wanted, read_response, pseudo, BudgetSettings(), server)
    assert all(read_response(answer.reply) for answer in taught.values() if answer.reply is not None)
    assert len(taught) == 2
    assert Budget(BudgetSettings(), "judge", read_purchases().all).calls == 3
