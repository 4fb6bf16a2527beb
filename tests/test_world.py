"""The toy corpus: determinism, splits, wordings, shifted combinations, sizes and grammar."""

import importlib
import pkgutil
import re
from zlib import crc32

import pytest
from pydantic import ValidationError

from distill.world import ToyRow, World, WorldSettings, build_world, task_types
from distill.world.drafts import Wordings
from distill.world.names import HELD_OUT_MEN, HELD_OUT_WOMEN

SMALL = WorldSettings(train=2000, valid=150, test=200, documents=400)
CATEGORIES = {
    "open_qa",
    "closed_qa",
    "general_qa",
    "classification",
    "brainstorming",
    "information_extraction",
    "summarization",
    "creative_writing",
    "rewriting",
}


@pytest.fixture(scope="module")
def world() -> World:
    return build_world(SMALL)


def list_prompts(rows: list[ToyRow]) -> list[tuple[str, str]]:
    return [(row["instruction"], row["input"]) for row in rows]


def list_answers(row: ToyRow) -> list[str]:
    return [row["output"]] if isinstance(row["output"], str) else row["output"]


def list_rows(world: World) -> list[ToyRow]:
    return [*world.train, *world.valid, *(row for rows in world.tests.values() for row in rows)]


def list_wordings() -> list[Wordings]:
    """Every table of wordings in the family modules, whether it stands alone or in a dict."""
    found: list[Wordings] = []
    for module in pkgutil.iter_modules(task_types.__path__):
        names = vars(importlib.import_module(f"{task_types.__name__}.{module.name}"))
        for value in names.values():
            entries = value.values() if isinstance(value, dict) else [value]
            found += [entry for entry in entries if isinstance(entry, Wordings)]
    return found


def compile_wording(wording: str) -> re.Pattern[str]:
    """A pattern that matches each instruction made from the wording."""
    # Counts and names are single words; as free fields they would let 'Name {count} {theme}.' match too much.
    parts = re.split(r"(\{\w+\})", wording)
    fields = {"{count}": "(?:two|three|four|five)", "{name}": r"\w+", "{town}": r"\w+"}
    return re.compile("".join(fields.get(part, ".+") if part[:1] == "{" else re.escape(part) for part in parts))


def test_equal_settings_give_equal_rows(world: World) -> None:
    assert build_world(SMALL) == world


def test_rows_are_the_same_on_every_machine(world: World) -> None:
    # A change of these numbers means that published results no longer belong to this corpus.
    text = repr([world.train[:200], world.valid[:50], world.tests["toy_shift"][:50], world.documents[:50]])
    assert crc32(text.encode()) == 1087216126


def test_another_seed_gives_another_world(world: World) -> None:
    other = build_world(SMALL.model_copy(update={"seed": 1}))
    assert other.train != world.train
    assert other.documents != world.documents


def test_smaller_sizes_are_prefixes(world: World) -> None:
    part = build_world(WorldSettings(train=300, valid=40, test=30, documents=50))
    assert part.train == world.train[:300]
    assert part.valid == world.valid[:40]
    assert part.documents == world.documents[:50]
    for name, rows in part.tests.items():
        assert rows == world.tests[name][:30]


def test_sizes_follow_the_settings(world: World) -> None:
    assert (len(world.train), len(world.valid), len(world.documents)) == (2000, 150, 400)
    assert {name: len(rows) for name, rows in world.tests.items()} == dict.fromkeys(
        ("toy_id", "toy_para", "toy_shift"), 200
    )


def test_no_size_is_too_small() -> None:
    empty = build_world(WorldSettings(train=0, valid=0, test=0, documents=0))
    assert empty.train == [] and empty.documents == []


def test_prompts_of_the_splits_are_disjoint(world: World) -> None:
    held_out = [list_prompts(world.valid), *(list_prompts(rows) for rows in world.tests.values())]
    train = set(list_prompts(world.train))
    assert not train & {prompt for prompts in held_out for prompt in prompts}
    flat = [prompt for prompts in held_out for prompt in prompts]
    assert len(flat) == len(set(flat))


def test_documents_do_not_hold_test_prompts(world: World) -> None:
    text = "\n".join(world.documents)
    for rows in world.tests.values():
        for row in rows:
            assert row["instruction"] not in text
            # A single short sentence may well occur by chance; a whole passage may not.
            assert row["input"].count(".") < 2 or row["input"] not in text


def test_unseen_wordings_are_never_in_training(world: World) -> None:
    unseen = [compile_wording(wording) for table in list_wordings() for wording in table.unseen]
    known = [compile_wording(wording) for table in list_wordings() for wording in table.known]
    assert len(unseen) > 60
    for row in [*world.train, *world.valid, *world.tests["toy_id"], *world.tests["toy_shift"]]:
        assert not any(pattern.fullmatch(row["instruction"]) for pattern in unseen), row["instruction"]
    for row in world.tests["toy_para"]:
        assert any(pattern.fullmatch(row["instruction"]) for pattern in unseen), row["instruction"]
        assert not any(pattern.fullmatch(row["instruction"]) for pattern in known), row["instruction"]


def test_held_out_people_are_in_the_shifted_set_only(world: World) -> None:
    strangers = re.compile("|".join((*HELD_OUT_WOMEN, *HELD_OUT_MEN)))
    known_rows = [*world.train, *world.valid, *world.tests["toy_id"], *world.tests["toy_para"]]
    assert not [row for row in known_rows if strangers.search(repr(row))]
    assert any(strangers.search(repr(row)) for row in world.tests["toy_shift"])


def test_shifted_lists_and_passages_are_longer_than_in_training(world: World) -> None:
    def count_sentences(rows: list[ToyRow], category: str) -> int:
        return max(row["input"].count(".") for row in rows if row["category"] == category)

    shifted = world.tests["toy_shift"]
    assert count_sentences(shifted, "closed_qa") > count_sentences(world.train, "closed_qa")
    assert not [row for row in world.train if re.search(r"\b(four|five)\b", row["instruction"])]
    assert [row for row in shifted if re.search(r"\b(four|five)\b", row["instruction"])]


def test_shifted_story_pairs_are_never_in_training(world: World) -> None:
    def find_pairs(rows: list[ToyRow]) -> set[tuple[str, str]]:
        pattern = re.compile(r"(?:One|Late one) \w+(?: \w+)?, (\w+) the \w+ met an? (\w+)\.")
        heads = [pattern.match(list_answers(row)[0]) for row in rows]
        return {(head[1], head[2]) for head in heads if head}

    shifted = find_pairs(world.tests["toy_shift"])
    assert shifted and not shifted & find_pairs(world.train)


def test_all_categories_occur(world: World) -> None:
    assert {row["category"] for row in world.train} == CATEGORIES
    assert {row["category"] for row in world.tests["toy_id"]} == CATEGORIES


def test_only_evaluation_rows_hold_several_references(world: World) -> None:
    assert all(isinstance(row["output"], str) for row in world.train)
    for name in ("toy_id", "toy_para", "toy_shift"):
        for row in world.tests[name]:
            if row["category"] in ("brainstorming", "creative_writing"):
                assert isinstance(row["output"], list)
            if isinstance(row["output"], list):
                assert 1 <= len(row["output"]) <= 4
                assert len(set(row["output"])) == len(row["output"])


def test_texts_are_neither_empty_nor_long(world: World) -> None:
    for row in list_rows(world):
        assert row["instruction"] and row["category"]
        assert len(f"{row['instruction']} {row['input']}".split()) <= 50
        for answer in list_answers(row):
            assert 1 <= len(answer.split()) <= 50
    assert all(5 <= len(document.split()) <= 120 for document in world.documents)


def test_answers_differ_in_length(world: World) -> None:
    lengths = [len(list_answers(row)[0].split()) for row in world.train]
    assert 8 <= sum(lengths) / len(lengths) <= 18
    assert sum(length >= 20 for length in lengths) > 0.1 * len(lengths)


def test_sentences_are_well_formed(world: World) -> None:
    texts = [row["instruction"] for row in list_rows(world)] + list(world.documents)
    texts += [row["input"] for row in list_rows(world) if row["input"]]
    texts += [answer for row in list_rows(world) for answer in list_answers(row)]
    for text in texts:
        assert text == text.strip() and "  " not in text, text
        assert text[0].isupper() and text[-1] in ".?!", text
        assert "{" not in text and "None" not in text, text
        assert not re.search(r"[.?!] [a-z]", text), text
        assert not re.search(r"\ba [aeiou]|\ban [^aeiou\W]", text, re.IGNORECASE), text
        assert not re.search(r"\b(\w+) \1\b|[.,:;]{2}| [.,?!]", text), text


def test_yes_no_questions_are_balanced(world: World) -> None:
    short = [row["output"] for row in world.train if row["output"] in ("Yes.", "No.")]
    assert 0.3 < short.count("Yes.") / len(short) < 0.7


def test_settings_refuse_unknown_fields_and_sizes() -> None:
    with pytest.raises(ValidationError, match="greater than or equal"):
        WorldSettings(train=-1)
    with pytest.raises(ValidationError, match="Extra inputs"):
        WorldSettings.model_validate({"tests": 3})
