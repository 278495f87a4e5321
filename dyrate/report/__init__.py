"""The report: tables, figures and the HTML page, made from result files alone."""
