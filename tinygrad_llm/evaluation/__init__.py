"""Measuring a model: the loss of a text, multiple choice, exact match, and a judge's scores.

`evaluation.harness`, which needs the lm-eval extra, brings our models to EleutherAI's lm-evaluation-harness.
"""

from .choices import NORMS, Answered, Pair, Question, accuracy, answer_questions, encode_pair, score_pairs
from .judge import Judge, Judged, NoAnswer, judge_all, judged, parse_score, prompt_for, read_judged
from .matching import Normalization, exact_match, matches
from .text_loss import TextLoss, text_loss

__all__ = [
    "TextLoss", "text_loss",
    "NORMS", "Answered", "Pair", "Question", "accuracy", "answer_questions", "encode_pair", "score_pairs",
    "Normalization", "exact_match", "matches",
    "Judge", "Judged", "NoAnswer", "judge_all", "judged", "parse_score", "prompt_for", "read_judged",
]  # fmt: skip
