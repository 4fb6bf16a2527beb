"""Rouge-L is rouge_score's own to the last bit, exact match and diversity are worked out by hand."""

from __future__ import annotations

import random
import subprocess
import sys
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rouge_score.rouge_scorer import RougeScorer

from distill.project.errors import DataError
from distill.scoring import diversity
from distill.text import rouge
from distill.text.words import legibility, tokenize

ORIGINAL = RougeScorer(["rougeL"], use_stemmer=True)

HAND_MADE = [
    "",
    " ",
    "\n\t",
    "a",
    "The cat sat on the mat.",
    "the CAT sits; on a mat!",
    "cats sat mats mat on the",
    "running runner runs ran easily fairly generalizations",
    "don't won't it's e-mail 3.14 1,000 x2",
    "naïve café Ünïcödé",
    "日本語のテキスト",
    "日本語 mixed with english 日本",
    "Ελληνικά и русский",
    "emoji 🙂 and \u200bzero width \u00a0 spaces\u2028line",
    "İstanbul ISTANBUL ıstanbul ß ẞ ﬁne",
    "_under_score __init__ a_b",
    "sses ies ational tional enci anci izer bli alli entli eli ousli",
    "the the the the the",
    "def f(x):\n    return x ** 2  # comment",
    "0 00 000 0000 00000",
    "\ud83d lone surrogate",
]


def original(reference: str, answer: str) -> float:
    return float(ORIGINAL.score(reference, answer)["rougeL"].fmeasure)


def test_hand_made_pairs_equal_rouge_score_to_the_last_bit() -> None:
    for reference in HAND_MADE:
        for answer in HAND_MADE:
            assert rouge.score(answer, [reference]) == 100 * original(reference, answer), (reference, answer)


def test_random_pairs_equal_rouge_score_to_the_last_bit() -> None:
    rng = random.Random(0)
    stems = ["connect", "relat", "happi", "move", "trade", "the", "of", "é", "7", "universal", "Ωmega", "ok"]
    ends = ["", "s", "ed", "ing", "ion", "ional", "iveness", "ly", "'s", ".", "-x", "ness", "izer"]

    def text() -> str:
        return " ".join(rng.choice(stems) + rng.choice(ends) for _ in range(rng.randrange(40)))

    for _ in range(600):
        reference, answer = text(), text()
        assert rouge.score(answer, [reference]) == 100 * original(reference, answer), (reference, answer)


@settings(max_examples=200, deadline=None)
@given(st.text(), st.text())
def test_any_text_equals_rouge_score(reference: str, answer: str) -> None:
    assert rouge.score(answer, [reference]) == 100 * original(reference, answer)


def test_best_reference_counts() -> None:
    references = ["nothing alike", "the cat sat", "the cat"]
    # "the cat sat down": 3 of 4 words, 3 of 3 -> F = 2·(3/4)·1 / (7/4) = 6/7
    assert rouge.score("the cat sat down", references) == pytest.approx(600 / 7)
    assert rouge.score("the cat sat down", references) == rouge.score("the cat sat down", references[::-1])


def test_no_reference_is_an_error() -> None:
    with pytest.raises(DataError, match="no reference"):
        rouge.score("a", [])


def test_mean_is_the_mean_of_the_scores() -> None:
    answers = ["the cat", "", "a dog"]
    references = [["the cat"], ["x"], ["a dog ran", "a cat"]]
    assert rouge.mean_rouge_l(answers, references) == pytest.approx((100 + 0 + 80) / 3)


def test_mean_of_nothing_or_of_unequal_lengths_is_an_error() -> None:
    with pytest.raises(DataError, match="no answer"):
        rouge.mean_rouge_l([], [])
    with pytest.raises(DataError, match="2 answers against 1"):
        rouge.mean_rouge_l(["a", "b"], [["a"]])


def test_processes_change_nothing_but_the_time() -> None:
    rng = random.Random(1)
    words = [f"word{i}s" for i in range(50)]
    answers = [" ".join(rng.choices(words, k=12)) for _ in range(2_300)]
    references = [[" ".join(rng.choices(words, k=12)) for _ in range(2)] for _ in answers]
    done: list[int] = []
    several = rouge.score_all(answers, references, processes=2, advance=done.append)
    assert several == rouge.score_all(answers, references, processes=1)
    assert sum(done) == len(answers)


def test_ten_thousand_answers_with_three_references_take_seconds() -> None:
    rng = random.Random(2)
    words = ["".join(rng.choices("abcdefghijklmnop", k=rng.randint(2, 9))) + "ing" for _ in range(5_000)]
    texts = [" ".join(rng.choices(words, k=60)) for _ in range(2_000)]
    answers = rng.choices(texts, k=10_000)
    references = [rng.sample(texts, 3) for _ in answers]
    start = time.monotonic()
    rouge.mean_rouge_l(answers, references)
    assert time.monotonic() - start < 60


def test_import_is_light() -> None:
    code = "import sys, distill.text.rouge; print(sorted({'torch', 'nltk', 'numpy'} & set(sys.modules)))"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == "[]"


@pytest.mark.parametrize(
    ("answer", "reference", "expected"),
    [
        ("Yes.", "yes", 100.0),
        ("  the\n Cat!", "The cat", 100.0),
        ("e-mail", "email", 100.0),
        ("the cat", "cat", 0.0),
        ("", "cat", 0.0),
        ("日本", "日本", 100.0),
    ],
)
def test_exact_match_is_on_normalised_text(answer: str, reference: str, expected: float) -> None:
    assert rouge.exact_match(answer, ["something else", reference]) == expected


def test_distinct_four_grams_are_pooled_over_the_texts() -> None:
    # abcd bcde | abcd xyz: 3 four-grams, 2 distinct
    assert diversity.distinct_ngrams(["a b c d e", "a b c d", "x y z"]) == pytest.approx(200 / 3)
    assert diversity.distinct_ngrams(["too short"]) is None


def test_repeats_are_counted_inside_an_answer() -> None:
    # "a a a a a": two four-grams, one distinct -> half; "a b c d": none; a short one has no say
    assert diversity.repeated_ngrams(["a a a a a", "a b c d", "x"]) == pytest.approx(25.0)
    assert diversity.repeated_ngrams(["too short"]) is None


# --- words of any script ------------------------------------------------------------------------------

SCRIPTS = {
    "Hindi": "हिन्दी में लिखा है",
    "Chinese": "我在北京工作。",
    "Japanese": "東京へ行きました",
    "Thai": "สวัสดีครับ",
    "Arabic": "مرحبا بالعالم",
    "Russian": "Здравствуй, мир!",
    "Korean": "안녕하세요 여러분",
    "Khmer": "ខ្ញុំស្រឡាញ់",
    "Amharic": "ሰላም ለዓለም",
    "Greek": "Καλημέρα κόσμε",
    "emoji": "🙂👍",
}


@pytest.mark.parametrize("text", SCRIPTS.values(), ids=SCRIPTS)
def test_equal_text_of_any_script_scores_100_over_unicode_words(text: str) -> None:
    assert (rouge.score(text, [text]), rouge.score(text, [text], "unicode")) == (0.0, 100.0)
    assert (legibility([[text]]).blind, legibility([[text]], "unicode").blind) == (True, False)


def test_unicode_words_by_hand() -> None:
    assert tokenize("我2024年去", "unicode") == ["我", "2024", "年", "去"]
    assert tokenize("Größe FÜR", "unicode") == ["grösse", "für"]
    # One letter however it is written: composed or not, full width, with an invisible joiner inside.
    assert tokenize("cafe\u0301 Ａ１ می\u200cخواهم", "unicode") == ["café", "a1", "میخواهم"]
    # 3 of 4 letters the same, in order: precision and recall 3/4.
    assert rouge.score("我去北京", ["我来北京"], "unicode") == 75.0
    assert (rouge.score("Größe", ["Grüße"]), rouge.score("Größe", ["Grüße"], "unicode")) == (100.0, 0.0)


@given(st.text(st.characters(max_codepoint=127)))
@settings(max_examples=200, deadline=None)
def test_text_of_ascii_has_the_papers_words_either_way(text: str) -> None:
    # Symbols, which the paper's words leave out, are words of `unicode`.
    words = [word for word in tokenize(text, "unicode") if word.isalnum()]
    assert words == tokenize(text)


def test_what_cannot_be_read_is_counted() -> None:
    found = legibility([["one two"], ["第1课"], ["好", "good"], ["!"]])
    assert (found.texts, found.unread, found.blind, found.partly) == (4, 2, False, True)
    assert legibility([["plain"], ["words"]]).partly is False
    german = legibility([["Größe und Maß"]])
    assert (german.unread, german.partly, german.blind) == (0, True, False)
    assert german.passed_over == pytest.approx(3 / 11)
