"""What routers decide about a text, measured: load, specialisation, co-activation, saturation."""

from sublayer.measures.routing.decisions import Decisions, decisions_of, mixtures
from sublayer.measures.routing.reading import Reading, held_out_readings, text_readings
from sublayer.measures.routing.report import EarlierState, LayerRouting, RoutingReport, measure_routing

__all__ = [
    "Decisions",
    "EarlierState",
    "LayerRouting",
    "Reading",
    "RoutingReport",
    "decisions_of",
    "held_out_readings",
    "measure_routing",
    "mixtures",
    "text_readings",
]
