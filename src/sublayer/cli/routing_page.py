"""A model's routing as a page that needs nothing beside it."""

from base64 import b64encode
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from sublayer.cli import routing_pictures as pictures
from sublayer.cli.routing_figures import notes
from sublayer.files import written_aside
from sublayer.measures.routing import RoutingReport

if TYPE_CHECKING:
    from matplotlib.figure import Figure


class Picture(NamedTuple):
    """A picture and what is said of it.

    Attributes:
        title: above it.
        draw: makes it; None where there is nothing to draw.
        says: what it shows, and what it is to be set beside.
    """

    title: str
    draw: "Callable[[RoutingReport], Figure | None]"
    says: str


PICTURES = (
    Picture(
        "Load",
        pictures.draw_load,
        "How many tokens go to each expert, over what each would have if all had as many. White is even, red is more, "
        "blue is less. MaxVio in the table is the reddest cell less 1; what lies below its floor is chance.",
    ),
    Picture(
        "Specialisation by domain",
        pictures.draw_domains,
        "Each expert's share of a domain, over its share of all the text that was read. If experts had nothing to do "
        "with domains, all would be white. Whether the difference is more than chance, the next picture says.",
    ),
    Picture(
        "What experts tell",
        pictures.draw_information,
        "Mutual information of an assignment's expert with its token's domain, and with its token's id (dots). The "
        "boxes hold 95 % of the figures with shuffled labels: domains shuffled over documents, ids over tokens. A dot "
        "within its box is chance.",
    ),
    Picture(
        "Experts together",
        pictures.draw_coactivation,
        "How often tokens with one expert have the other too, over what independent choices with the same load would "
        "give. White is independent. Where experts are few, cells tell of the tokens with the row's expert the "
        "percentage that have the column's too. Grey where fewer than 5 tokens would be expected.",
    ),
    Picture(
        "Saturation",
        pictures.draw_saturation,
        "Of the choices at the end of training, the share that earlier states make as well, token by token. Dotted: "
        "two random choices with the loads of the two states.",
    ),
    Picture(
        "Experts that a decoding step reads",
        pictures.draw_decode_steps,
        "With several texts at once, each sends one token, and all their experts' weights are read. Shown is the share "
        "of all experts, for tokens drawn from the text that was read. Dotted: with an even load.",
    ),
)


def write_page(report: RoutingReport, subject: str, path: Path) -> None:
    """Write the page.

    Args:
        report: what it shows.
        subject: what the model is called.
        path: of the file, which is replaced.

    Raises:
        RunError: when it cannot be written.
    """
    from jinja2 import Environment

    with pictures.drawing():
        drawn = [
            (each, _as_address(figure)) for each in PICTURES if _wanted(each, report) and (figure := each.draw(report))
        ]
    template = Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True).from_string(PAGE)
    text = template.render(
        report=report,
        subject=subject,
        drawn=drawn,
        notes=notes(report),
        left_out=len(report.layers) - len(pictures.pictured(report.layers)),
    )
    with written_aside(path) as aside:
        aside.write_text(text, encoding="utf-8")


def _wanted(picture: Picture, report: RoutingReport) -> bool:
    return picture.draw is not pictures.draw_domains or len(report.domains) > 1


def _as_address(figure: "Figure") -> str:
    # As an image of its own, so that names within one picture do not meet those of another.
    return "data:image/svg+xml;base64," + b64encode(pictures.as_svg(figure).encode()).decode()


PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Routing of {{ subject }}</title>
<style>
  body { margin: 2.5rem auto; max-width: 62rem; padding: 0 1.2rem; color: #24292f; background: #fff;
         font: 15px/1.5 system-ui, sans-serif; }
  h1 { font-size: 1.5rem; margin-bottom: .2rem; }
  h2 { font-size: 1.1rem; margin: 2.4rem 0 .3rem; border-top: 1px solid #e6e8eb; padding-top: 1.2rem; }
  p { margin: .3rem 0 .8rem; max-width: 48rem; }
  .quiet, th { color: #6a737d; }
  img { width: 100%; height: auto; }
  .wide { overflow-x: auto; }
  table { border-collapse: collapse; font-size: .88rem; font-variant-numeric: tabular-nums; }
  th { font-weight: 500; text-align: right; vertical-align: bottom; padding: .25rem .5rem;
       border-bottom: 1px solid #d5d9de; }
  td { text-align: right; padding: .2rem .5rem; border-bottom: 1px solid #f0f2f4; white-space: nowrap; }
  th.left, td.left { text-align: left; }
  td.above { font-weight: 600; }
  code { background: #f4f6f8; padding: 0 .25rem; border-radius: 3px; white-space: pre; }
  summary { cursor: pointer; margin: .4rem 0; }
</style>
</head>
<body>
<h1>Routing of {{ subject }}</h1>
<p class="quiet">Read: {% for name in report.domains %}{{ name }} ({{ "{:,}".format(report.tokens[name]) }} tokens)
{%- if not loop.last %}, {% endif %}{% endfor %}
{%- if report.last_step %} · after {{ "{:,}".format(report.last_step) }} steps{% endif %}</p>
<ul>
{% for note in notes %}<li>{{ note }}</li>
{% endfor %}
</ul>
<div class="wide"><table>
<tr><th class="left">layer</th><th class="left">router</th><th>experts</th><th>MaxVio</th><th>floor</th><th>dead</th>
<th>entropy of the mean</th><th>mean entropy</th><th>margin</th>
{% if report.domains|length > 1 %}<th>nats on domain</th><th>shuffled, 95 %</th><th>p</th>{% endif %}
<th>nats on id</th><th>shuffled, 95 %</th><th>p</th></tr>
{% for layer in report.layers %}
<tr><td class="left">{{ layer.label }}</td><td class="left">{{ layer.router }}</td>
<td>{{ layer.top_k }} of {{ layer.n_experts }}</td>
<td{% if layer.sampling_floor and layer.max_vio > layer.sampling_floor %} class="above"{% endif %}>
{{- "%.3f"|format(layer.max_vio) }}</td>
<td>{{ "%.3f"|format(layer.sampling_floor) if layer.sampling_floor else "" }}</td><td>{{ layer.dead|length }}</td>
<td>{{ "%.4f"|format(layer.mean_entropy) if layer.mean_entropy is not none else "" }}</td>
<td>{{ "%.4f"|format(layer.token_entropy) if layer.token_entropy is not none else "" }}</td>
<td>{{ "%.4f"|format(layer.margin) if layer.margin is not none else "" }}</td>
{% set told = [layer.domains.information, layer.vocabulary.information] %}
{% for each in told if each is not none %}
<td{% if each.above %} class="above"{% endif %}>{{ "%.4f"|format(each.nats) }}</td>
<td>{{ "%.4f"|format(each.low) }}–{{ "%.4f"|format(each.high) }}</td><td>{{ "%.3f"|format(each.p) }}</td>
{% endfor %}</tr>
{% endfor %}
</table></div>
<p class="quiet">Bold: above its baseline. Entropies are in nats; the most that there can be is the logarithm of the
number of experts. Margin: the lowest probability of a chosen expert less the highest of another one.</p>
{% if left_out %}<p class="quiet">Pictures with a part for each layer leave out {{ left_out }} of them.</p>{% endif %}
{% for picture, address in drawn %}
<h2>{{ picture.title }}</h2>
<p>{{ picture.says }}</p>
<img alt="{{ picture.title }}" src="{{ address }}">
{% endfor %}
<h2>Tokens of each expert</h2>
<p>For each expert the tokens of which it has the largest share, of those that came ten times at least, beside its share
of all tokens. A share far above that is specialisation by vocabulary.</p>
{% for layer in report.layers %}
<details{% if loop.last %} open{% endif %}><summary>layer {{ layer.label }}</summary>
<div class="wide"><table>
<tr><th>expert</th><th>of all tokens</th><th class="left">tokens, and how often it has them</th></tr>
{% for some in layer.vocabulary.specialised %}
<tr><td>{{ loop.index0 }}</td><td>{{ "{:.1%}".format(layer.vocabulary.share_E[loop.index0]) }}</td><td class="left">
{%- for one in some %}<code>{{ report.words(one.token) }}</code> {{ "{:.0%}".format(one.share) }} {% endfor %}</td></tr>
{% endfor %}
</table></div></details>
{% endfor %}
</body>
</html>
"""
