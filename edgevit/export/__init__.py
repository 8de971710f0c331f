"""From the deployed graph to a Program, the input of every converter."""
