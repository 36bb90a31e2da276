"""What a synthesis will ask of its writer, before it asks: calls, tokens and cost.

Import-light: the plan shows it. The prompts are filled in as they will be, so what is uncertain is how many characters
the endpoint's tokenizer puts into a token, and how long the answers are.
"""

from dataclasses import dataclass

from components.synthesis.draws import Draws, Family
from components.synthesis.prompts import Configuration, Message, Prompts

# Measured with the tokenizer of SmolLM2 on the prompts of this project; a multilingual one needs fewer tokens.
CHARACTERS_PER_TOKEN = 4.0  # of ASCII; any other character counts as a token
TOKENS_PER_MESSAGE = 5.0  # of the chat template
SENTENCE_CHARACTERS = 100


@dataclass(frozen=True)
class Estimate:
    """Sums over all rows, retries not counted.

    Attributes:
        calls: requests to the writer.
        own_tokens: of the input, those of each call's last message: an engine that keeps what prompts begin with reads
            no more.
        output_tokens: if the answers are as long as those of the prompt's examples.
        most_output_tokens: if every answer is cut at `max_tokens`.
        cost, most_cost: of those, in the currency of the prices; None without prices.
        seconds: the least that the rate limit allows; None without one.
    """

    calls: int
    input_tokens: int
    own_tokens: int
    output_tokens: int
    most_output_tokens: int
    cost: float | None
    most_cost: float | None
    seconds: float | None


def estimate(
    rows: int,
    draws: Draws,
    prompts: Prompts,
    *,
    passage_characters: int,
    max_tokens: int,
    input_price: float | None = None,
    output_price: float | None = None,
    requests_per_minute: float | None = None,
) -> Estimate:
    """Estimate the requests for so many documents.

    Args:
        passage_characters: shown of each document, or their mean length if that is less.
        max_tokens: of one answer.
        input_price, output_price: for a million tokens.
    """
    total = sum(draws.families.values())
    calls = input_tokens = own_tokens = output_tokens = 0.0
    for family, share in draws.families.items():
        of_family = rows * share / total
        asked = _calls(family, draws, prompts, passage_characters)
        calls += of_family * len(asked)
        for messages in asked:
            tokens = [_tokens(message["content"]) for message in messages]
            answers = [_tokens(message["content"]) for message in messages if message["role"] == "assistant"]
            own_tokens += of_family * (tokens[-1] + TOKENS_PER_MESSAGE)
            input_tokens += of_family * (sum(tokens) + len(messages) * TOKENS_PER_MESSAGE)
            mean = sum(answers) / len(answers) if answers else max_tokens
            output_tokens += of_family * min(mean, max_tokens)
    most = calls * max_tokens

    def cost(output: float) -> float | None:
        if input_price is None or output_price is None:
            return None
        return (input_tokens * input_price + output * output_price) / 1e6

    return Estimate(
        calls=round(calls),
        input_tokens=round(input_tokens),
        own_tokens=round(own_tokens),
        output_tokens=round(output_tokens),
        most_output_tokens=round(most),
        cost=cost(output_tokens),
        most_cost=cost(most),
        seconds=60 * calls / requests_per_minute if requests_per_minute else None,
    )


def _calls(family: Family, draws: Draws, prompts: Prompts, passage_characters: int) -> list[list[Message]]:
    """The chats of one row, about a passage of blanks, in the language that is asked for most."""
    passage, sentence = " " * passage_characters, " " * min(SENTENCE_CHARACTERS, passage_characters)
    corpus = _most(draws.corpus_languages, "en")
    query = _most(draws.query_languages, corpus)
    names = prompts.languages
    match family:
        case "retrieval":
            shown = prompts.retrieval
            types, difficulties = list(shown.question_types), list(shown.difficulties)
            people = [example.characters for example in shown.configuration.examples]
            characters = people[0] if people else []
            choice = Configuration(
                character=(characters or [""])[0], question_type=types[0], difficulty=difficulties[0]
            )
            return [
                shown.configuration_messages(passage, characters, types, difficulties),
                shown.query_messages(passage, choice, draws.longest_words, query, names),
            ]
        case "bitext_mining":
            target = _most(
                {k: v for k, v in (draws.translation_languages or {}).items() if k != corpus}, "en"
            )
            return [prompts.bitext_mining.messages(sentence, corpus, target, names)]
        case "sts":
            return [prompts.sts.messages(sentence, corpus, _most(draws.similarities, "5>2"), names)]
        case "classification":
            aspect = _most(draws.aspects, next(iter(prompts.classification.aspects)))
            return [prompts.classification.messages(passage, corpus, aspect, names)]


def _tokens(text: str) -> float:
    ascii_characters = sum(character.isascii() for character in text)
    return ascii_characters / CHARACTERS_PER_TOKEN + len(text) - ascii_characters


def _most(shares: dict[str, float] | None, otherwise: str) -> str:
    return max(sorted(shares), key=shares.__getitem__) if shares else otherwise
