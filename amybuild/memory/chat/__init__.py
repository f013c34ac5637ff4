"""Chat exports: one reader per format behind one table, and what makes a conversation into examples."""
