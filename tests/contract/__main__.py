"""Writes docs/contract.md."""

from tests.contract.table import PAGE, page, read_rows

PAGE.write_text(page(read_rows()), encoding="utf-8")
