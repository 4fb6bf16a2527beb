"""The family's tokenizer: a byte-level BPE learned here, or one taken from a folder or the hub."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoTokenizer, GPT2Tokenizer, PreTrainedTokenizerBase, PreTrainedTokenizerFast

from distill.project.errors import ModelError
from distill.project.foreign import in_words
from distill.project.references import Reference, require_folder
from distill.text.settings import TokenizerSettings

END_OF_TEXT = "<|endoftext|>"

# Case, accents (one sign, or two), forms of one letter, runs of spaces, line ends, numbers, other scripts, signs.
_TELLING = (
    "The QUICK Brown fox, it's 'quoted' -- \"don't\"; x_1 = f(a,b)!?",
    "Größe, naïve café, cafe\u0301, ﬁne, Ａ１, İI, ǅ, ﷺ, ²½",
    "  two  spaces\tand a tab\r\nand lines\n\n\n    code()  \n",
    "1234567890 3.14159 1,000,000 2026-11-30 https://a.b/c?d=e",
    "你好，世界。こんにちは नमस्ते สวัสดี مرحبا Привет 👍🏽 \u200b\u00a0\ufeff",
    "end",
)


def build_tokenizer(settings: TokenizerSettings, texts: Iterable[str]) -> PreTrainedTokenizerBase:
    """Load or learn the tokenizer of `settings`; a new one learns from `texts`."""
    if settings.train is not None:
        return learn_bpe(texts, settings.train.vocab_size)
    assert settings.source is not None  # the settings hold exactly one of the two
    tokenizer = load_tokenizer(settings.source)
    if settings.eos_token is not None:
        if settings.eos_token not in tokenizer.get_vocab():
            raise ModelError(f"{settings.source} has no token {settings.eos_token!r}; correct `tokenizer.eos_token`")
        tokenizer.eos_token = settings.eos_token
    return tokenizer


def learn_bpe(texts: Iterable[str], vocab_size: int) -> PreTrainedTokenizerFast:
    """A byte-level BPE like GPT-2's: any text round-trips; one special token ends and pads."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[END_OF_TEXT],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    # pad = eos as for GPT-2: every mask in the project comes from lengths, never from ids.
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token=END_OF_TEXT,
        pad_token=END_OF_TEXT,
        clean_up_tokenization_spaces=False,
    )


def load_tokenizer(source: Reference | Path, cached: bool = False) -> PreTrainedTokenizerBase:
    """Load a saved tokenizer; bare GPT-2 files (`vocab.json`, `merges.txt`) are enough.

    `cached` asks no hub and finds only files fetched before.

    Raises: ModelError, ending with the fix.
    """
    reference = source if isinstance(source, Reference) else Reference(path=str(source))
    if reference.path is not None:
        folder = Path(reference.path)
        if not any((folder / name).is_file() for name in ("tokenizer.json", "vocab.json", "tokenizer.model")):
            require_folder(folder)
        if not folder.is_dir():
            raise ModelError(
                f"the tokenizer folder {folder} does not exist; run `dvc repro` for a family's own, or correct the path"
            )
        if (folder / "vocab.json").is_file() and not (folder / "tokenizer_config.json").is_file():
            return _load_gpt2_files(folder)
    fix = (
        "check the name and the revision, and that the hub is within reach or the files are in its local cache"
        if reference.hub
        else "put the tokenizer.json that its model came with there, or correct the path"
    )
    with in_words(f"cannot load the tokenizer {reference}", fix):
        tokenizer = AutoTokenizer.from_pretrained(
            reference.name,
            revision=reference.revision or "main",
            local_files_only=cached,
            trust_remote_code=False,
        )
    if len(tokenizer) < 2:  # a folder without a vocabulary gives one of special tokens alone
        raise ModelError(f"{reference} holds no tokenizer; put its tokenizer.json there, or correct the name")
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    loaded: PreTrainedTokenizerBase = tokenizer
    return loaded


def _load_gpt2_files(folder: Path) -> PreTrainedTokenizerBase:
    merges = folder / "merges.txt"
    if not merges.is_file():
        raise ModelError(f"{folder} has vocab.json but no merges.txt; put GPT-2's merges.txt beside it")
    with in_words(f"cannot load the tokenizer {folder}", "put GPT-2's own vocab.json and merges.txt there"):
        tokenizer: PreTrainedTokenizerBase = GPT2Tokenizer(
            vocab=str(folder / "vocab.json"),
            merges=str(merges),
            eos_token=END_OF_TEXT,
            bos_token=END_OF_TEXT,
            unk_token=END_OF_TEXT,
            pad_token=END_OF_TEXT,
        )
    return tokenizer


def id_count(tokenizer: PreTrainedTokenizerBase) -> int:
    """One more than the highest id of a token; a model's rows beyond are padding and no text."""
    return max(tokenizer.get_vocab().values()) + 1


def require_same_tokenizer(
    teacher: PreTrainedTokenizerBase, student: PreTrainedTokenizerBase, texts: Sequence[str] = ()
) -> None:
    """Refuse two tokenizers that disagree on any token, or that read a text differently.

    Compared are every token's id, and the ids of texts that show a normaliser, of all tokens written out, and of
    `texts` (rows of the user's). Padded vocabulary rows beyond the tokens do not matter.
    Raises: ModelError naming what differs, and SeqKD as the method that still works.
    """
    ours, theirs = student.get_vocab(), teacher.get_vocab()
    differing = [t for t in sorted(ours.keys() | theirs.keys()) if ours.get(t) != theirs.get(t)]
    if differing:
        shown = ", ".join(f"{token!r} is {_id(theirs, token)} and {_id(ours, token)}" for token in differing[:3])
        raise ModelError(
            f"teacher and student tokenizers differ in {len(differing)} tokens ({shown}, …): KD and MiniLLM "
            "compare distributions token by token and need one tokenizer; use a student of the teacher's "
            "family, or train this one by SeqKD in a family of its own (docs/models.md, Another tokenizer)"
        )

    both = (teacher, student)
    if all(each.is_fast for each in both) and len({each.backend_tokenizer.to_str() for each in both}) == 1:
        return
    told = [*_TELLING, *_written_out(teacher), *texts]
    read = [tokenizer(told, add_special_tokens=False)["input_ids"] for tokenizer in both]
    for text, first, second in zip(told, *read, strict=True):
        if first != second:
            raise ModelError(
                "teacher and student tokenizers have the same tokens but read text differently "
                f"({_first_difference(first, second)} in {text[:60]!r}); their normalisers, "
                "pre-tokenizers or merges differ, so use models whose tokenizer.json is the same"
            )


def _written_out(tokenizer: PreTrainedTokenizerBase) -> list[str]:
    """The text of all ordinary tokens, many at a time: what two lists of merges would make differently of it."""
    marked = set(tokenizer.get_added_vocab().values())
    ids = [index for index in sorted(tokenizer.get_vocab().values()) if index not in marked]
    return [str(text) for text in tokenizer.batch_decode([ids[i : i + 64] for i in range(0, len(ids), 64)])]


def _first_difference(first: Sequence[int], second: Sequence[int]) -> str:
    place = 0
    while first[place : place + 1] == second[place : place + 1]:
        place += 1
    return f"ids {list(first[place : place + 4])} and {list(second[place : place + 4])}"


def _id(vocabulary: dict[str, int], token: str) -> str:
    return str(vocabulary.get(token, "absent"))
