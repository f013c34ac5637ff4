"""The memory graph: nodes, links, dialogues, emotion tags, and one reader per source."""
