"""Corpora end to end: their cards in the product, what they refuse, and whose words are told to nobody."""

from __future__ import annotations

import json

from tests.harness import Space


def test_the_cards_are_summed_in_the_account_without_a_word(built: Space) -> None:
    text = (built.product / "persona.json").read_text()
    assert "weighs" not in text
    target = next(one for one in json.loads(text)["targets"] if one["name"] == "listen")
    card = target["corpus"]
    assert (card["train"] + card["heldout"], card["duplicates"], card["near"]) == (18, 0, 0)
    assert card["tokens"]["reply"] > 0
    assert "nodes" not in card
    shown = built.run("show").out
    assert "trained  held out" in shown
    assert "listen" in shown
    again = built.build("--set", "task.listen.alpha=0.5")
    assert again.summary["build"] != json.loads(text)["build"]
    assert json.loads((built.product / "persona.json").read_text())["targets"][1]["corpus"] == card
