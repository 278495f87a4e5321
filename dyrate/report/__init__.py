"""The report: CSV files, figures and the HTML page, drawn from the analysis."""
