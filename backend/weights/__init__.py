"""Where weights come from, and those that ship."""
