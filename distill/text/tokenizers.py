"""The family's tokenizer: a byte-level BPE learned here, or one taken from a folder or the hub."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoTokenizer, GPT2Tokenizer, PreTrainedTokenizerBase, PreTrainedTokenizerFast

from distill.project.errors import ModelError
from distill.project.foreign import in_words
from distill.project.references import Reference, require_folder
from distill.text.settings import TokenizerSettings

END_OF_TEXT = "<|endoftext|>"


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


def require_same_tokenizer(teacher: PreTrainedTokenizerBase, student: PreTrainedTokenizerBase) -> None:
    """Refuse two tokenizers that disagree on any token; padded vocabulary rows beyond them do not matter.

    Raises: ModelError naming differing tokens, and SeqKD as the method that still works.
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


def _id(vocabulary: dict[str, int], token: str) -> str:
    return str(vocabulary.get(token, "absent"))
