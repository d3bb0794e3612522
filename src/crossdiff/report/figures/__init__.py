"""Each figure is a function from tables to a matplotlib figure. ``drawing.save`` writes it as SVG and PNG."""
