"""`--explain` names the root cause first, shows old -> new, agrees with the build, and writes nothing."""

from __future__ import annotations

import json

from tests.harness import Space, plain, states


def test_nothing_built_yet(space: Space) -> None:
    explained = space.explain()
    assert explained["schema"] == 1
    assert not explained["up_to_date"]
    assert set(states(explained).values()) == {"missing"}
    assert not (space.root / "cache").exists()


def test_up_to_date_says_why(built: Space) -> None:
    assert built.explain()["up_to_date"]
    assert "up to date" in built.run("--explain").out
    assert "components are as they were" in built.run("--explain", "--all").out


def test_an_edit_is_the_root_cause_of_all_that_follows(built: Space) -> None:
    built.edit("memory/pattern-listen.md", "about the boat that", "about your boat that")
    explained = built.explain()
    found = states(explained)
    assert found["task.listen/corpus"] == "stale"
    assert {a for a, s in found.items() if s == "unknown"} == {
        *("task.listen/train", "task.listen/baseline", "task.listen/verify", "checkpoint/link", "persona/verify")
    }
    by_target = {t["target"]: t for t in explained["targets"]}
    assert by_target["checkpoint"]["causes"] == ["task.listen/corpus"]
    assert by_target["task.close"]["state"] == "up-to-date"
    change = by_target["task.listen"]["actions"][0]["changes"][0]
    assert (change["kind"], change["name"]) == ("node", "pattern-listen")
    assert change["old"] != change["new"]
    assert by_target["task.listen"]["actions"][1]["cost_s"] > 0
    assert "boat" not in json.dumps(explained)  # digests, not the words


def test_the_text_for_people_is_golden(built: Space) -> None:
    built.edit("memory/pattern-listen.md", "about the boat that", "about your boat that")
    built.edit("Personafile.toml", "density = 0.5", "density = 0.25")
    text = plain(built.run("--explain").out)
    assert text == (
        "task.listen/corpus: node edited: pattern-listen\n"
        "    @@ -13,3 +13,3 @@\n"
        "     User: My boat troubles me today.\n"
        "    -Assistant: What is it about the boat that weighs on you?\n"
        "    +Assistant: What is it about your boat that weighs on you?\n"
        "     Not: Sell the boat and buy a new one at once.\n"
        "checkpoint/link: density 0.5 -> 0.25\n"
        "\n"
        "task.listen: stale\n"
        "  corpus       node edited: pattern-listen  (last time T)\n"
        "  train        shows when task.listen/corpus is built  (last time T)\n"
        "  baseline     shows when task.listen/corpus is built  (last time T)\n"
        "  verify       shows when task.listen/corpus is built  (last time T)\n"
        "checkpoint: stale, because of task.listen/corpus\n"
        "  link         density 0.5 -> 0.25  (last time T)\n"
        "persona: unknown, because of checkpoint/link, task.listen/corpus\n"
        "  verify       shows when checkpoint/link is built  (last time T)\n"
        "up to date: base.tiny, task.close, steer.joy, readout\n"
        "a build takes about T if everything named here has to run\n"
    )


def test_recipe_parameter_and_code_show_old_and_new(built: Space) -> None:
    built.edit("recipes/quick.toml", "steps = 3", "steps = 4")
    built.edit("Personafile.toml", "alpha = -0.5", "alpha = -0.25")
    changes = {
        (c["kind"], c["name"], c["old"], c["new"])
        for t in built.explain()["targets"]
        for a in t["actions"]
        for c in a["changes"]
    }
    assert ("recipe", "steps", "3", "4") in changes


def test_alpha_shows_in_the_link(built: Space) -> None:
    built.edit("Personafile.toml", "alpha = -0.5", "alpha = -0.25")
    out = built.run("--explain").out
    assert "alphas.close -0.5 -> -0.25" in out


def test_a_result_that_waits_in_the_cache_costs_nothing(built: Space) -> None:
    built.edit("Personafile.toml", "density = 0.5", "density = 0.25")
    built.build()
    built.edit("Personafile.toml", "density = 0.25", "density = 0.5")
    out = built.run("--explain", "checkpoint").out
    assert "the result waits in the cache" in out


def test_it_writes_nothing_and_agrees_with_the_build(built: Space) -> None:
    built.edit("memory/pattern-close.md", "Assistant: The boat can", "Assistant: That boat can")
    before = [*built.files("cache"), *built.files("dist")]
    found = states(built.explain())
    built.run("-n")
    assert [*built.files("cache"), *built.files("dist")] == before
    ran = built.build().ran
    assert {a for a, s in found.items() if s == "stale"} <= ran
    assert ran <= {a for a, s in found.items() if s in ("stale", "unknown")}


def test_unknown_target_suggests(built: Space) -> None:
    result = built.run("--explain", "task.lisen")
    assert result.code == 2
    assert "did you mean 'task.listen'?" in result.err
