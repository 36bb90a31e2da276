"""The table of a comparison: systems by sets, every pair tested, and what each took to train."""

import json
from dataclasses import asdict, dataclass

from rich.table import Table

from components.evaluation.significance import Interval
from components.evaluation.table import p_text, title
from components.storage import Folder

FILE = "comparison.json"
AVERAGE = "average"
LEVEL = 0.05


@dataclass(frozen=True)
class Pair:
    """Two systems on one set.

    Attributes:
        difference: first - second, with its 95 % interval.
        p: two-sided, paired bootstrap, corrected by Holm over all pairs of the set.
    """

    first: str
    second: str
    difference: Interval
    p: float


@dataclass(frozen=True)
class Figure:
    """One system on one set.

    Attributes:
        value: with its 95 % interval.
        difference: to the baseline; None for the baseline, as p.
        p: of that difference, corrected by Holm over the systems.
        better_than, worse_than: the systems from which it differs significantly, all pairs being corrected for.
    """

    system: str
    value: Interval
    difference: Interval | None
    p: float | None
    better_than: list[str]
    worse_than: list[str]


@dataclass(frozen=True)
class SetTable:
    """One set, or the average of all sets.

    Attributes:
        metric: the figure that is compared; "average" of the average.
        rows: what is resampled: queries, pairs or texts; of the average, all of them.
        figures: a system each, in the order of the comparison.
    """

    name: str
    metric: str
    rows: int
    figures: list[Figure]
    pairs: list[Pair]

    @property
    def best(self) -> str:
        return max(self.figures, key=lambda figure: figure.value.mean).system


@dataclass(frozen=True)
class Cost:
    """Of one model.

    Attributes:
        seconds: in all steps of its training stages, those included whose model only filtered or mined for it.
        tokens: that these stages trained on, padding left out.
        parameters: of the whole model.
        parameters_added: of these, those of pooling and projection. What training alone had is in no model.
    """

    seconds: float
    tokens: int
    parameters: int
    parameters_added: int


@dataclass(frozen=True)
class System:
    """What is compared.

    Attributes:
        about: what it is, in words.
    """

    name: str
    about: str
    cost: Cost


@dataclass(frozen=True)
class ComparisonTable:
    """A whole comparison. The average, where there are several sets, is the first of them."""

    baseline: str
    systems: list[System]
    sets: list[SetTable]


def write_comparison(table: ComparisonTable, output: Folder) -> bytes:
    """comparison.json; returns its bytes."""
    data = json.dumps(asdict(table), indent=1).encode()
    output.write(FILE, data)
    return data


def read_comparison(folder: Folder) -> ComparisonTable:
    """What `write_comparison` wrote."""
    found = json.loads(folder.read(FILE))
    return ComparisonTable(
        baseline=found["baseline"],
        systems=[System(**system | {"cost": Cost(**system["cost"])}) for system in found["systems"]],
        sets=[
            SetTable(
                **one | {
                    "figures": [
                        Figure(**figure | {
                            "value": Interval(**figure["value"]),
                            "difference": figure["difference"] and Interval(**figure["difference"]),
                        })
                        for figure in one["figures"]
                    ],
                    "pairs": [Pair(**pair | {"difference": Interval(**pair["difference"])}) for pair in one["pairs"]],
                }
            )
            for one in found["sets"]
        ],
    )  # fmt: skip


def render_comparison(table: ComparisonTable, width: int) -> list[Table]:
    """For a terminal: systems by sets, as many sets beside one another as there is room for; then the cost."""
    named = max(len(system.name) for system in table.systems)
    beside = max(1, (width - named) // 18)
    tables = [
        _scores(table.systems, table.sets[at : at + beside]) for at in range(0, len(table.sets), beside)
    ]
    tables[-1].caption = (
        f"[95 % interval]; p: against {table.baseline}, paired bootstrap, Holm over the systems;\n"
        ">, <: systems that it is significantly better, worse than, Holm over all pairs"
    )
    return [*tables, _costs(table.systems)]


def _scores(systems: list[System], sets: list[SetTable]) -> Table:
    found = Table(box=None, pad_edge=False, padding=(0, 2, 1, 0), caption_justify="left")
    found.add_column("system", no_wrap=True)
    for each in sets:
        found.add_column(_heading(each), justify="right", no_wrap=True)
    for number, system in enumerate(systems):
        found.add_row(system.name, *(_cell(each, number) for each in sets))
    return found


def _heading(each: SetTable) -> str:
    return AVERAGE if each.name == AVERAGE else f"{each.name}\n{title(each.metric)}"


def _cell(each: SetTable, number: int) -> str:
    figure = each.figures[number]
    value = figure.value
    tested = "baseline" if figure.p is None else f"p {p_text(figure.p)}"
    mean = f"{value.mean:.3f}"
    return "\n".join(
        (
            f"[bold]{mean}[/]" if figure.system == each.best else mean,
            f"\\[{value.low:.3f}, {value.high:.3f}]",
            f"{tested}  >{len(figure.better_than)} <{len(figure.worse_than)}",
        )
    )


def _costs(systems: list[System]) -> Table:
    found = Table(
        title="What each took to train", title_justify="left", box=None, pad_edge=False, caption_justify="left",
        caption="added: parameters of pooling and projection; stages that systems share count for each",
    )  # fmt: skip
    found.add_column("system", no_wrap=True)
    for name in ("seconds", "tokens", "parameters", "added"):
        found.add_column(name, justify="right", no_wrap=True)
    for system in systems:
        cost = system.cost
        found.add_row(
            system.name, f"{cost.seconds:,.0f}", f"{cost.tokens:,}", f"{cost.parameters:,}",
            f"{cost.parameters_added:,}",
        )  # fmt: skip
    return found
