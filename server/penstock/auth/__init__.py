"""Who may call what: tokens and signed claims (JWT), by group of RPCs and by model."""
