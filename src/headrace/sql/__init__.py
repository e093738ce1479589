"""Contracts compiled to SQL: exact casts, rules, dedup order, set rules and lineage."""

from .checked import RowTest, checked_sql, row_tests, unspoken
from .expect import Expectation, expectations
from .language import Expression, columns_of
from .lineage import lineage
from .order import order_by, winners_sql
from .step import AUDIT, Reference, TableStep, compile_table

__all__ = [
    "AUDIT",
    "Expectation",
    "Expression",
    "Reference",
    "RowTest",
    "TableStep",
    "checked_sql",
    "columns_of",
    "compile_table",
    "expectations",
    "lineage",
    "order_by",
    "row_tests",
    "unspoken",
    "winners_sql",
]
