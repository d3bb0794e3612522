"""The figures: each a function from tables to a matplotlib figure, which ``drawing.save`` writes as SVG and PNG."""
