"""A text as the backbone reads it: its template around it, cut at a length, as tokens.

Where it counts which tokens are the template's (`EncodingSpec.marks_template`), a token of the template stands as the
complement of its id, ~id, which is below 0. So wherever tokens are kept or sent, they say it themselves.
"""

from collections.abc import Sequence
from typing import get_args

from tokenizers import Encoding
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from components.model.spec import EncodingSpec, Side
from components.model.tokens import Cutter, plain


class Framer:
    """Texts of a side as token ids. Safe to use from several threads.

    What stands behind the text in a template is tokenised by itself and stays whole, so that it is the same
    tokens behind every text.

    Args:
        tokenizer: appends `spec.end_token` itself.
        marks_template: None: as the spec needs it.
    """

    def __init__(
        self, spec: EncodingSpec, tokenizer: PreTrainedTokenizerFast, marks_template: bool | None = None
    ) -> None:
        self._cut = Cutter(tokenizer)
        self._marks = spec.marks_template if marks_template is None else marks_template
        backend = plain(tokenizer)
        self._suffix: dict[Side, list[int]] = {
            side: backend.encode(spec.suffix(side), add_special_tokens=False).ids for side in get_args(Side)
        }
        self.specials_behind = _specials_behind(backend.encode("a"))
        """Special tokens that the tokenizer puts behind a text."""

    def __call__(
        self, side: Side, prefixes: Sequence[str], texts: Sequence[str], length: int
    ) -> list[list[int]]:
        """Token ids of each text, special tokens included, at most `length` each.

        Args:
            prefixes: what stands before each text (`EncodingSpec.prefix`).

        Raises:
            ValueError: the length leaves no room beside special tokens and what stands behind the text.
        """
        suffix = self._suffix[side]
        whole = [prefix + text for prefix, text in zip(prefixes, texts, strict=True)]
        if suffix and length <= len(suffix):
            raise ValueError(
                f"a {side} length of {length} tokens leaves no room for text beside the {len(suffix)} tokens "
                "behind it in the template"
            )
        if self._marks and (suffix or any(prefixes)):
            found = self._cut.with_offsets(whole, length - len(suffix))
            framed = [
                _marked(text, len(prefix), self.specials_behind) if prefix or suffix else text.ids
                for text, prefix in zip(found, prefixes, strict=True)
            ]
            suffix = [~number for number in suffix]
        else:
            framed = self._cut(whole, length - len(suffix))
        if not suffix:
            return framed
        ends = [len(ids) - self.specials_behind for ids in framed]
        return [[*ids[:end], *suffix, *ids[end:]] for ids, end in zip(framed, ends, strict=True)]


def _specials_behind(encoding: Encoding) -> int:
    mask = encoding.special_tokens_mask
    return len(mask) - 1 - max((place for place, special in enumerate(mask) if not special), default=-1)


def _marked(encoding: Encoding, prefix: int, specials_behind: int) -> list[int]:
    """Ids with those of the template marked: of the prefix, so many characters, and of special tokens before it.

    A token that reaches from the prefix into the text is the text's.
    """
    ends = len(encoding.ids) - specials_behind
    return [
        ~number if place < ends and (special or end <= prefix) else number
        for place, (number, special, (_, end)) in enumerate(
            zip(encoding.ids, encoding.special_tokens_mask, encoding.offsets, strict=True)
        )
    ]


def split_marks(token_BT: Tensor) -> tuple[Tensor, Tensor]:
    """Token ids as the backbone knows them, and which are the template's: int64 and bool [B, T]."""
    template_BT = token_BT < 0
    return token_BT.where(~template_BT, ~token_BT), template_BT
