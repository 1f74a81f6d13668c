"""The modules of the page that read questions and write sentences, run by Node.js with the tables of a model."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from page_modules import Node

from mimo_export.web.facts_text import TextFacts, text_facts
from mimo_runtime.model.config import MimoConfig
from mimo_runtime.model.tokenizer import Tokenizer
from mimo_runtime.text.vocabulary import Vocabulary


@dataclass(frozen=True, eq=False)
class PageText:
    """The page of one model."""

    node: Node
    config: MimoConfig
    tokenizer: Tokenizer

    @cached_property
    def vocabulary(self) -> Vocabulary:
        return Vocabulary(self.config.entities)

    @cached_property
    def language(self) -> TextFacts:
        return text_facts(self.config, self.vocabulary, self.tokenizer)

    def run(self, code: str, **values: object) -> object:
        """What a function body returns; ``v`` has the values, ``load(name)`` gives a module of ``page/text``."""
        body = f"""(async () => {{
            m.useTables(v.language);
            const load = (name) => import(new URL(`${{name}}.js`, process.argv[1]));
            {code}
        }})()"""
        return self.node.call("text/tables", body, language=self.language, **values)
