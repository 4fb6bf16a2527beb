"""Builds the toy corpus: instruction rows split by a stable hash of the prompt, and plain documents."""

from dataclasses import dataclass
from random import Random
from zlib import crc32

from pydantic import BaseModel, ConfigDict, Field

from distill.world.documents import write_document
from distill.world.drafts import Draft, Family, Purpose, ToyRow
from distill.world.lore import Lore, draw_lore
from distill.world.task_types import FAMILIES

# Of 20 hash classes the first three are for the test sets and the next for validation.
HASH_CLASSES = 20
TEST_CLASSES = range(0, 3)
VALID_CLASSES = range(3, 4)
TRAIN_CLASSES = range(4, HASH_CLASSES)
PATIENCE = 400
TEST_PURPOSES = {
    "toy_id": Purpose.KNOWN,
    "toy_para": Purpose.PARAPHRASED,
    "toy_shift": Purpose.SHIFTED,
}


class WorldSettings(BaseModel):
    """How much of the toy world to write."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    train: int = Field(default=8000, ge=0, le=50_000)
    """Rows for training the teacher; the student uses the first of them."""
    valid: int = Field(default=300, ge=0, le=600)
    """Validation rows: known wordings, prompts that are not in training."""
    test: int = Field(default=300, ge=0, le=600)
    """Rows in each of the three test sets."""
    documents: int = Field(default=6000, ge=0, le=50_000)
    """Plain-text documents for pre-training."""
    seed: int = Field(default=0, ge=0, lt=2**32, strict=True)
    """Chooses the relations between people, towns and things, and which rows are drawn."""


@dataclass(frozen=True)
class World:
    """The corpus of one set of settings."""

    train: list[ToyRow]
    valid: list[ToyRow]
    tests: dict[str, list[ToyRow]]
    documents: list[str]


def build_world(settings: WorldSettings) -> World:
    """Write the corpus; equal settings give equal rows, and a smaller size gives a prefix."""
    lore, seed = draw_lore(settings.seed), settings.seed
    train = [_draw_training_row(lore, seed, index) for index in range(settings.train)]
    valid = _draw_distinct_rows(lore, f"{seed}/valid", settings.valid, Purpose.KNOWN, VALID_CLASSES)
    tests = {
        name: _draw_distinct_rows(lore, f"{seed}/{name}", settings.test, purpose, TEST_CLASSES)
        for name, purpose in TEST_PURPOSES.items()
    }
    documents = [write_document(Random(f"{seed}/document/{index}"), lore) for index in range(settings.documents)]
    return World(train, valid, tests, documents)


def hash_class(draft: Draft) -> int:
    """The class of a prompt, the same on every machine; it decides the split the prompt may be in."""
    return crc32(f"{draft.instruction}\n{draft.passage}".encode()) % HASH_CLASSES


def _draw_training_row(lore: Lore, seed: int, index: int) -> ToyRow:
    # A generator per row keeps row i the same however many rows are asked for.
    rng = Random(f"{seed}/train/{index}")
    family, draft = _draw_draft(rng, lore, Purpose.KNOWN, TRAIN_CLASSES)
    return ToyRow(instruction=draft.instruction, input=draft.passage, output=draft.answers[0], category=family.category)


def _draw_distinct_rows(lore: Lore, purpose_name: str, count: int, purpose: Purpose, classes: range) -> list[ToyRow]:
    """Rows for evaluation, no prompt twice; open tasks keep all their references."""
    rows: dict[tuple[str, str], ToyRow] = {}
    rng = Random(purpose_name)
    while len(rows) < count:
        family, draft = _draw_draft(rng, lore, purpose, classes)
        output = draft.answers[0] if len(draft.answers) == 1 else list(draft.answers)
        row = ToyRow(instruction=draft.instruction, input=draft.passage, output=output, category=family.category)
        rows.setdefault((draft.instruction, draft.passage), row)
    return list(rows.values())


def _draw_draft(rng: Random, lore: Lore, purpose: Purpose, classes: range) -> tuple[Family, Draft]:
    """Draw until a draft falls into the wanted hash classes; the family is kept as long as possible."""
    families = [family for family in FAMILIES if family.shifts or purpose is not Purpose.SHIFTED]
    weights = [family.weight for family in families]
    while True:
        family = rng.choices(families, weights)[0]
        # A small family may have no prompt at all in these hash classes; then another one takes its turn.
        for _ in range(PATIENCE):
            draft = family.write(rng, lore, purpose)
            if draft is not None and hash_class(draft) in classes:
                return family, draft
