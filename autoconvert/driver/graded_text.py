"""The tokens of the text that a conversion is graded by."""

from autoconvert.check.grade import Grading, shipped_text, tokens_to_grade
from autoconvert.driver.settings import Settings
from autoconvert.packaging.tokenizer import TokenizerSpec
from autoconvert.source.source import Source, embedding_rows


def text_to_grade(source: Source, tokenizer: TokenizerSpec, grading: Grading, settings: Settings) -> list[int]:
    """The beginning of the text that is to be graded by, as the tokenizer reads it."""
    return tokens_to_grade(
        tokenizer.encoder(),
        grading.text or shipped_text(tokenizer.texts),
        parameters=source.parameters,
        vocabulary=embedding_rows(source.module) or 1,
        context=settings.context,
    )
