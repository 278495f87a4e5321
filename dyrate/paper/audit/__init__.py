"""The paper's printed tables, checked against themselves and arithmetic. No finding is written by hand."""
