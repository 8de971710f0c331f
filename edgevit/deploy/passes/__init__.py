"""One exact rewrite per module; `pass_manager` holds their order."""
