"""From the deployed graph to a Program, the one thing that converters read."""
