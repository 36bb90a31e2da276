"""What the pages for people are made of: templates, and plots within them. A page is one file that loads nothing."""

import base64
from dataclasses import dataclass

import jinja2
from matplotlib.figure import Figure

from components.evaluation import figures
from components.evaluation.table import p_text, title


@dataclass(frozen=True)
class Plot:
    """A figure of the page, with the words for those who do not see it."""

    name: str
    words: str
    figure: Figure

    @property
    def source(self) -> str:
        """The figure as a data URI."""
        return "data:image/svg+xml;base64," + base64.b64encode(figures.to_svg(self.figure)).decode()


def template(name: str) -> jinja2.Template:
    """A template of this folder."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("components.evaluation", "."),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"title": title, "p": p_text, "count": "{:,}".format}
    return environment.get_template(name)
