"""An edit costs what it changes: the promises of the README, on a tiny model through the same code."""

from __future__ import annotations

import json

from tests.harness import Space

ALL_OF_LISTEN = {f"task.listen/{step}" for step in ("corpus", "train", "baseline", "measure", "verify")}
LINKED = {"checkpoint/link", "persona/measure", "persona/verify", "persona/drift"}
JOIN = LINKED | {"persona/cross"}


def test_the_first_build_runs_everything_and_the_second_nothing(space: Space) -> None:
    first = space.build()
    assert len(first.ran) == 26  # steer.joy/texts is readout/texts
    assert (space.product / "model.safetensors").is_file()
    second = space.build()
    assert second.ran == set()
    assert second.summary["build"] == first.summary["build"]


def test_one_edited_dialogue_retrains_one_behaviour(built: Space) -> None:
    built.edit(
        "memory/pattern-listen.md", "Assistant: What is it about the boat that", "Assistant: Which part of the boat"
    )
    assert built.build().ran == ALL_OF_LISTEN | JOIN


def test_undoing_the_edit_runs_nothing_and_brings_the_old_product_back(built: Space) -> None:
    before = built.run("log", "--json").out
    model = (built.product / "model.safetensors").read_bytes()
    text = built.read("memory/pattern-listen.md")
    built.edit("memory/pattern-listen.md", "about the boat that", "about your boat that")
    built.build()
    assert (built.product / "model.safetensors").read_bytes() != model
    built.write("memory/pattern-listen.md", text)
    undone = built.build()
    assert undone.ran == set()
    assert undone.summary["build"] == json.loads(before)[0]["build"]
    assert (built.product / "model.safetensors").read_bytes() == model


def test_a_typo_in_prose_trains_nothing(built: Space) -> None:
    before = built.build().summary["build"]
    built.edit("memory/pattern-listen.md", "I ask before I mend.", "I ask before I mend things.")
    typo = built.build()
    assert typo.ran == {"task.listen/corpus"}
    assert typo.summary["build"] == before
    # the same build, and what lies in dist/ says what it is made of now
    info = json.loads((built.product / "persona.json").read_text())
    explained = {a["action"]: a["key"] for t in built.explain()["targets"] for a in t["actions"]}
    assert {id: entry["key"] for id, entry in info["actions"].items()} == explained


def test_prose_beside_a_section_is_not_read_at_all(built: Space) -> None:
    built.edit("memory/pattern-close.md", "I wrap up too soon.", "I wrapped up too soon.")
    assert built.build().ran == set()


def test_a_new_alpha_links_again_and_trains_nothing(built: Space) -> None:
    built.edit("Personafile.toml", "alpha = 1.0", "alpha = 0.7")
    # the vector alone is measured at the alpha it is linked with, so its own verification is new too
    assert built.build().ran == {"task.listen/measure", "task.listen/verify"} | JOIN


def test_a_new_density_links_again_only(built: Space) -> None:
    built.edit("Personafile.toml", "density = 0.5", "density = 0.25")
    assert built.build().ran == LINKED


def test_a_journal_edit_touches_readouts_only(built: Space) -> None:
    built.edit("memory/j-00.md", "from the first hour", "from the early hour")
    ran = built.build().ran
    assert {a for a in ran if not a.endswith("/texts")} == {"persona/drift"} | {
        f"{t}/{a}" for t in ("steer.joy", "readout") for a in ("labels", "activations", "vectors", "quality")
    }
    assert len(ran) == 10  # both read the same texts: whoever comes first makes them


def test_readouts_found_on_the_persona_follow_it_and_those_on_the_base_do_not(built: Space) -> None:
    built.edit("Personafile.toml", "layers = [1, 2]", 'layers = [1, 2]\non = "persona"')
    ran = built.build().ran
    assert ran == {"persona/drift"} | {f"readout/{a}" for a in ("activations", "vectors", "quality")}
    built.edit("Personafile.toml", "density = 0.5", "density = 0.25")
    assert built.build().ran == LINKED | {f"readout/{a}" for a in ("activations", "vectors", "quality")}
    info = json.loads((built.product / "persona.json").read_text())
    assert set(info["readout"]["quality"]) == {"joy", "worry"}
    assert "drift" in info["readout"]["quality"]["joy"]
    assert json.loads((built.product / "quality.json").read_text())["order"] == ["joy", "worry"]
    assert (built.product / "steering/joy/quality.json").is_file()


def test_a_changed_tag_costs_no_forward_pass(built: Space) -> None:
    built.edit("memory/j-00.md", "joy:9 worry:2", "joy:9 worry:9")
    ran = built.build().ran
    assert not any("activations" in a for a in ran)
    assert {"readout/labels", "readout/vectors", "readout/quality"} <= ran


def test_a_recipe_change_retrains_its_tasks(built: Space) -> None:
    built.edit("recipes/quick.toml", "steps = 3", "steps = 4")
    assert (
        built.build().ran
        == {f"task.{t}/{a}" for t in ("listen", "close") for a in ("train", "measure", "verify")} | JOIN
    )


def test_a_comment_in_a_recipe_changes_nothing(built: Space) -> None:
    built.write("recipes/quick.toml", "# a comment\n" + built.read("recipes/quick.toml"))
    assert built.build().ran == set()


def test_another_gate_measures_nothing_again(built: Space) -> None:
    built.edit("recipes/quick.toml", "max_neutral_kl = 50.0", "max_neutral_kl = 49.0")
    assert built.build().ran == {"task.listen/verify", "task.close/verify"}
    built.edit("recipes/quick.toml", "max_neutral_kl = 49.0", "max_neutral_kl = 49.0\nmax_cross_share = 1e9")
    assert built.build().ran == {"persona/verify"}
    built.edit("Personafile.toml", "[link]", "[gates]\nmax_neutral_kl = 40.0\n\n[link]")
    assert built.build().ran == {"persona/verify"}
    built.edit("Personafile.toml", "max_neutral_kl = 40.0", "max_neutral_kl = 0.0")
    failed = built.run()
    assert failed.code == 1
    assert "max_neutral_kl = 0" in failed.err
    built.edit("Personafile.toml", "max_neutral_kl = 0.0", "max_neutral_kl = 40.0")
    assert built.build().ran == set()


def test_force_runs_a_cached_target_and_gets_the_same_bytes(built: Space) -> None:
    before = built.run("log", "--json").out
    forced = built.build("--force", "task.listen")
    assert forced.ran == ALL_OF_LISTEN
    assert forced.summary["build"] == json.loads(before)[0]["build"]


def test_check_reruns_everything_and_finds_no_difference(built: Space) -> None:
    assert len(built.build("--check").ran) == 26, "27 actions, and two of them are one: the same key"


def test_one_target_builds_what_it_needs_and_no_more(space: Space) -> None:
    ran = space.build("task.listen").ran
    assert ran == ALL_OF_LISTEN | {"base.tiny/import", "base.tiny/neutral"}
    assert not space.product.exists()


def test_variants_have_their_own_hash_and_the_declared_one_comes_back(built: Space) -> None:
    declared = built.build().summary["build"]
    for flags in (("--without", "close"), ("--only", "listen")):
        variant = built.build(*flags)
        assert not any(a.endswith("/train") for a in variant.ran)
        assert variant.summary["build"] != declared
    info = json.loads((built.product / "persona.json").read_text())
    assert [t["name"] for t in info["targets"]] == ["listen"]
    assert built.build("--set", "task.listen.alpha=0.25").ran == {"task.listen/measure", "task.listen/verify"} | JOIN
    assert built.build().ran == set()
    assert json.loads((built.product / "persona.json").read_text())["build"] == declared


def test_an_analogy_is_a_target_like_any_other(built: Space) -> None:
    extra = '[task.mixed]\nanalogy = { a = "close", b = "listen", c = "close" }\nalpha = 0.3\nrecipe = "quick"\n'
    extra += "\n[steer.joy]"
    built.edit("Personafile.toml", "[steer.joy]", extra)
    assert built.build().ran == {f"task.mixed/{step}" for step in ("combine", "baseline", "measure", "verify")} | JOIN


def test_the_product_says_what_it_is_made_of(built: Space) -> None:
    info = json.loads((built.product / "persona.json").read_text())
    assert info["name"] == "tess"
    assert {t["name"] for t in info["targets"]} == {"listen", "close"}
    assert set(info["verification"]["behaviours"]) == {"listen", "close"}
    assert info["readout"]["concepts"] == ["joy", "worry"]
    assert all(len(entry["output"]) == 64 for entry in info["actions"].values())
    for name in ("persona.json", "README.md", "readout.json"):
        text = (built.product / name).read_text()
        assert "troubles me" not in text
        assert "all I thought of" not in text
        assert str(built.root) not in text
