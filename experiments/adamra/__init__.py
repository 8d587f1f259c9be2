"""Which resolution does a query choose? Two tasks in one (AdaMRA)."""
