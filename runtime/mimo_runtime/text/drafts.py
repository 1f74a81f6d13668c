"""Drafts for speculative decoding: the tokens that the text decoder probably writes next, without running it.

A drafted token costs nothing but its row in the next step (Leviathan et al. 2023, arXiv:2211.17192), and a wrong one changes no
answer. Two sources, neither of which is a model: n-grams of the grammar's own sentences and of earlier answers, and the name
in the question (prompt lookup, Saxena 2023).
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Sequence

from ..model.config import MimoConfig
from ..model.tokenizer import PHRASE_BEGIN, PHRASE_END, Tokenizer
from ..utils.fork import restart_in_child
from .grammar import LOCATIONS, SHAPES, SIZES, Description, Phrase, describe, describe_head, write_phrase
from .questions import target_of

#: Longest context that a token is drafted from.
ORDER = 4
#: Tokens of a draft that are not of the question: further ones are rarely right.
SHARED = 3
#: Questions whose last answer is kept, and contexts of all answers.
QUESTIONS, CONTEXTS = 64, 100_000

#: The next token by the last one to ``ORDER`` tokens.
Table = dict[tuple[int, ...], int]


def add_ngrams(table: Table, tokens: Sequence[int]) -> None:
    """Add what follows every context of a sentence; the last sentence with a context decides."""
    for place in range(1, len(tokens)):
        for order in range(1, min(ORDER, place) + 1):
            table[tuple(tokens[place - order : place])] = tokens[place]


def _next(tables: Sequence[Table], recent: Sequence[int]) -> int | None:
    """What follows the longest context that a table knows."""
    for order in range(len(recent), 0, -1):
        context = tuple(recent[-order:])
        for table in tables:
            if (token := table.get(context)) is not None:
                return token
    return None


class AnswerDrafts:
    """Drafts for the answer to one question.

    Args:
        own: n-grams of the question's name and of its last answer.
        learned: n-grams of all answers.
        grammar: n-grams of the grammar.
    """

    def __init__(self, own: Table, learned: Table, grammar: Table) -> None:
        self._own, self._learned, self._grammar = own, learned, grammar

    def propose(self, tokens: Sequence[int], count: int) -> list[int]:
        """At most ``count`` tokens that may follow ``tokens``, fewer where no context is known."""
        recent, draft, shared = list(tokens[-ORDER:]), list[int](), 0
        while len(draft) < count:
            token = _next((self._own,), recent)
            if token is None and shared < SHARED:
                token, shared = _next((self._learned, self._grammar), recent), shared + 1
            if token is None:
                break
            draft.append(token)
            recent = [*recent[1 - ORDER :], token]
        return draft

    def learn(self, tokens: Sequence[int]) -> None:
        """Remember a complete answer, ``<bos>`` and ``<eos>`` included."""
        add_ngrams(self._own, tokens)
        if len(self._learned) < CONTEXTS:
            add_ngrams(self._learned, tokens)


class Drafts:
    """Drafts for all answers of a model. Threads may share it: what one learns while another drafts changes no answer.

    Args:
        config: of the model; its names and regions make the sentences.
        tokenizer: of the model.
    """

    def __init__(self, config: MimoConfig, tokenizer: Tokenizer) -> None:
        self._config, self._tokenizer = config, tokenizer
        self._grammar: Table = {}
        self._learned: Table = {}
        self._questions: OrderedDict[str, Table] = OrderedDict()
        self.restart()
        restart_in_child(self)

    def restart(self) -> None:
        """The lock of a forked process."""
        self._lock = threading.Lock()

    def of(self, question: str) -> AnswerDrafts:
        """Drafts for the answer to a question; the sentences of the grammar are read at the first one."""
        with self._lock:
            if not self._grammar:
                self._grammar = self._of_grammar()
            own = self._questions.pop(question, None)
            self._questions[question] = own = self._named(question) if own is None else own
            while len(self._questions) > QUESTIONS:
                self._questions.popitem(last=False)
            return AnswerDrafts(own, self._learned, self._grammar)

    def clear(self) -> None:
        """Forget all answers."""
        with self._lock:
            self._learned = {}
            self._questions.clear()

    def _of_grammar(self) -> Table:
        table: Table = {}
        for sentence in sentences(self._config):
            add_ngrams(table, self._tokenizer.encode_answer(sentence))
        return table

    def _named(self, question: str) -> Table:
        """N-grams of how the grammar names what a question asks for, as present and as absent."""
        table: Table = {}
        name = target_of(question)
        if name is None:
            return table
        present = self._tokenizer.encode_answer(write_phrase(Phrase(name)))
        absent = self._tokenizer.encode_answer(describe(Description(absent=name)))
        add_ngrams(table, present[present.index(PHRASE_BEGIN) : present.index(PHRASE_END) + 1])
        # Behind "Image:", which no answer begins with.
        add_ngrams(table, absent[len(self._tokenizer.encode_answer(f"{describe_head(Description())}:")) - 1 :])
        return table


def sentences(config: MimoConfig) -> Iterator[str]:
    """A few hundred sentences of the grammar that use every name and region of a model, the most usual at the end."""
    modalities, every = config.modalities or ("",), sorted({region for of in config.entity_regions for region in of})
    number = 0
    for query, name in enumerate(config.entities):
        regions: Iterable[str] = config.entity_regions[query] if config.entity_regions else every
        for region in regions or ("",):
            number += 1
            modality = modalities[number % len(modalities)]
            yield describe(Description(modality, region))
            yield describe(Description(modality, region, absent=name))
            for query_number in (query + 1, 0):
                words = SIZES[number % len(SIZES)], SHAPES[number % len(SHAPES)], LOCATIONS[number % len(LOCATIONS)]
                yield describe(Description(modality, region, (Phrase(name, query_number, "one", *words),)))
