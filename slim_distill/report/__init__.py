"""Pictures, curves, tables and pages for people."""

from slim_distill.report.curves import ap_bars, ap_curves, difference_plot, loss_curves
from slim_distill.report.page import Page
from slim_distill.report.pictures import class_colour, draw_boxes, encode_png, save_png, sheet
from slim_distill.report.seeds import Scores, Summary, as_plain, seed_tables, summarise
from slim_distill.report.tables import format_cell, markdown_table, text_table, tsv

__all__ = [
    "Page",
    "Scores",
    "Summary",
    "ap_bars",
    "ap_curves",
    "as_plain",
    "class_colour",
    "difference_plot",
    "draw_boxes",
    "encode_png",
    "format_cell",
    "loss_curves",
    "markdown_table",
    "save_png",
    "seed_tables",
    "sheet",
    "summarise",
    "text_table",
    "tsv",
]
