"""The paper: its printed tables as data, and what they say of each other. Knows no results."""
