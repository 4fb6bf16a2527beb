"""Prepare a family's data: read and tokenise it, count faults and losses, write `data/<family>/`.

Nothing is shuffled: rows keep the order of their source, so that "the first 1,000 rows" means the same
everywhere. Duplicates are reported and stay.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from distill.data.audit import audit_legibility, audit_split, count_tokens, find_duplicates, legible, list_rows
from distill.data.corpus import read_corpus
from distill.data.coverage import require_readable, unreadable_rows
from distill.data.rows import Fields, Row, Split, interpret, read_split, require_rows
from distill.data.settings import DataSettings
from distill.data.splits import count_prompts, draw_prompts
from distill.data.tables import Record, RecordTable
from distill.project.errors import DataError
from distill.project.files import fresh_dir, write_json, write_jsonl
from distill.prompting.prompts import Pair, encode_rows, render
from distill.text.settings import PromptSettings, TokenizerSettings
from distill.text.words import PAPER, Words
from distill.world import WorldSettings, build_world

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True)
class Sources:
    """Rows and texts that a family's data settings name."""

    train: Split
    valid: Split
    tests: dict[str, Split]
    """Evaluation rows: all sets of the toy world, otherwise those to be checked for duplicates."""
    corpus: Split | None


@dataclass(frozen=True)
class Encoded:
    """A split without rows of too long a prompt, and the token ids of the rows that stay."""

    split: Split
    pairs: list[Pair]
    noted: dict[str, list[int]]
    """Numbers of the rows that a person should know of: what in their text is not as it seems."""


def prepare(
    data: DataSettings, prompt: PromptSettings, tokens: TokenizerSettings, base: Path, target: Path
) -> dict[str, Any]:
    """Write the folder `target`, replacing an older one whole, and return the audit written with it.

    `base` is the folder that relative paths of `data` start from. The training response of a row with several
    references is the first. Raises: DataError, ModelError; nothing is written then.
    """
    sources = read_sources(data, base)
    # Only now: this imports transformers, and a fault in the data should show at once.
    from distill.text.tokenizers import build_tokenizer

    documents = [row.instruction for row in sources.corpus.rows] if sources.corpus else []
    tokenizer = build_tokenizer(tokens, _texts(sources.train.rows, documents, prompt))
    encoded = {
        "train": encode_split(sources.train, prompt, tokenizer),
        "valid": encode_split(sources.valid, prompt, tokenizer),
    }
    report = audit(sources, encoded, tokenizer, data.rouge)
    with fresh_dir(target) as folder:
        tokenizer.save_pretrained(folder / "tokenizer")
        for name, part in encoded.items():
            columns = _as_columns(part)
            if name == "valid" and data.rouge != PAPER:
                # With the rows, so that DVC trains again, and chooses checkpoints again, where it changes.
                columns["rouge"] = [data.rouge] * len(part.pairs)
            write_parquet(folder / f"{name}.parquet", columns)
        if documents:
            write_parquet(folder / "corpus.parquet", {"text": documents})
        if data.world is not None:
            for name, test in sources.tests.items():
                write_jsonl(folder / "tests" / f"{name}.jsonl", [as_raw(row) for row in test.rows])
        write_json(folder / "report.json", report)
    return report


def read_sources(data: DataSettings, base: Path) -> Sources:
    """Read every source of the settings. Raises: DataError."""
    if data.world is not None:
        return _write_world(data.world)
    assert data.train is not None  # the settings hold `world` or `train`
    train = read_split(data.train, data.fields, data.on_bad_row, base)
    if data.valid is not None:
        valid = read_split(data.valid, data.fields, data.on_bad_row, base)
    else:
        assert data.valid_rows is not None  # the settings hold one of the two
        train, valid = hold_out(train, data.valid_rows)
    return Sources(
        train,
        valid,
        {} if data.test is None else {"test": read_split(data.test, data.fields, data.on_bad_row, base)},
        None if data.corpus is None else read_corpus(data.corpus, base),
    )


def hold_out(train: Split, count: int) -> tuple[Split, Split]:
    """Move `count` rows, drawn from the whole of `train`, into a validation split; both keep their order.

    Rows of one prompt stay together, so there may be a few more or fewer. Raises: DataError when no training row would
    be left.
    """
    # The draw belongs to the data, not to a training seed: all seeds share one validation set.
    chosen = set(draw_prompts(train.rows, count, "validation rows"))
    if not chosen:
        prompts = count_prompts(train.rows)
        raise DataError(
            f"{train.name} has {len(train.rows):,} usable rows of {prompts:,} different prompts, too few to take "
            f"{count:,} of them for validation; lower `valid_rows`"
        )
    held = [row for i, row in enumerate(train.rows) if i in chosen]
    rest = [row for i, row in enumerate(train.rows) if i not in chosen]
    moved = {**train.dropped, "moved_to_validation": [row.number for row in held]}
    return replace(train, rows=rest, dropped=moved), Split(train.name, len(held), held, [], {})


def encode_split(split: Split, prompt: PromptSettings, tokenizer: PreTrainedTokenizerBase) -> Encoded:
    """Tokenise a split and leave out rows with a prompt over the limit.

    Raises: DataError when no row is left, ModelError when the tokenizer cannot hold them.
    """
    texts = [render(prompt, row.instruction, row.input) for row in split.rows]
    encoded = encode_rows(tokenizer, prompt, texts, [row.references[0] for row in split.rows])
    fits = [len(row.prompt_ids) <= prompt.max_prompt_tokens for row in encoded]
    too_long = [row.number for row, fit in zip(split.rows, fits, strict=True) if not fit]
    kept = replace(
        split,
        rows=[row for row, fit in zip(split.rows, fits, strict=True) if fit],
        dropped={**split.dropped, f"prompt_over_{prompt.max_prompt_tokens}_tokens": too_long},
    )
    require_rows(kept)
    encoded = [row for row, fit in zip(encoded, fits, strict=True) if fit]
    pairs = [(row.prompt_ids, row.response_ids) for row in encoded]
    control = [row.number for row, own in zip(kept.rows, encoded, strict=True) if own.held_control_text]
    unreadable = unreadable_rows(tokenizer, kept.rows, pairs)
    require_readable(kept.name, len(kept.rows), unreadable)
    return Encoded(kept, pairs, {"control_tokens_as_text": control, **unreadable})


def audit(
    sources: Sources, encoded: Mapping[str, Encoded], tokenizer: PreTrainedTokenizerBase, words: Words = PAPER
) -> dict[str, Any]:
    """The content of `report.json`: rows read, left out, kept and cut, tokens and duplicates of each split."""
    eos = tokenizer.eos_token_id
    splits = {
        name: {
            **audit_split(part.split),
            "prompt_tokens": asdict(count_tokens([prompt_ids for prompt_ids, _ in part.pairs])),
            "response_tokens": asdict(count_tokens([response_ids for _, response_ids in part.pairs])),
            "responses_cut": sum(response_ids[-1] != eos for _, response_ids in part.pairs),
            "noted": {name: list_rows(numbers) for name, numbers in part.noted.items()},
            **audit_legibility(legible(part.split, words)),
        }
        for name, part in encoded.items()
    }
    rows = {name: part.split.rows for name, part in encoded.items()}
    rows.update({name: test.rows for name, test in sources.tests.items()})
    return {
        "splits": splits | {name: audit_split(test) for name, test in sources.tests.items()},
        "duplicates": find_duplicates(rows),
        "corpus": None if sources.corpus is None else _audit_corpus(sources.corpus),
        "tokenizer": {"tokens": len(tokenizer)},
    }


def as_raw(row: Row) -> dict[str, Any]:
    """A row the way evaluation sets are given: `output` is one text or a list of them."""
    output = row.references[0] if len(row.references) == 1 else list(row.references)
    return {"instruction": row.instruction, "input": row.input, "output": output, "category": row.category}


def write_parquet(path: Path, columns: Mapping[str, Sequence[Any]]) -> None:
    """Write columns of text or of token ids as Parquet, through `datasets`."""
    from datasets import Dataset, Features, List, Value, disable_progress_bars

    disable_progress_bars()
    types = {name: List(Value("int32")) if name.endswith("_ids") else Value("string") for name in columns}
    Dataset.from_dict(dict(columns), features=Features(types)).to_parquet(path)


def _write_world(settings: WorldSettings) -> Sources:
    world = build_world(settings)
    rows = {"train": world.train, "valid": world.valid, **world.tests}
    splits = {name: _from_world(name, part, Fields()) for name, part in rows.items()}
    documents = [{"text": text} for text in world.documents]
    return Sources(
        splits.pop("train"),
        splits.pop("valid"),
        splits,
        _from_world("documents", documents, Fields(instruction="text", output="text")) if documents else None,
    )


def _from_world(name: str, rows: Iterable[Mapping[str, Any]], fields: Fields) -> Split:
    records = [Record(number, dict(row)) for number, row in enumerate(rows, start=1)]
    return interpret(RecordTable(f"the toy world's {name}", "row", records, []), fields, "error")


def _texts(rows: Iterable[Row], documents: Iterable[str], prompt: PromptSettings) -> Iterable[str]:
    """Texts that a new tokenizer learns from: the training rows as models see them, and the corpus."""
    for row in rows:
        yield render(prompt, row.instruction, row.input) + row.references[0]
    yield from documents


def _as_columns(part: Encoded) -> dict[str, list[Any]]:
    rows = part.split.rows
    return {
        "instruction": [row.instruction for row in rows],
        "input": [row.input for row in rows],
        "output": [row.references[0] for row in rows],
        "category": [row.category for row in rows],
        "prompt_ids": [prompt_ids for prompt_ids, _ in part.pairs],
        "response_ids": [response_ids for _, response_ids in part.pairs],
    }


def _audit_corpus(corpus: Split) -> dict[str, Any]:
    return {**audit_split(corpus), "characters": sum(len(row.instruction) for row in corpus.rows)}
