"""The answer that a no-op keeps: it holds while nothing changed, and whatever could make it another one ends it."""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

import amybuild
from amybuild import kept, noop
from tests.edits import looked
from tests.harness import ROOT, Space, plain

NODE = "memory/pattern-listen.md"


def words(space: Space, *args: str) -> list[str]:
    return ["-C", str(space.root), *args]


def known(space: Space, *args: str) -> tuple[str, str] | None:
    """What is answered without looking any further."""
    return noop.answer(words(space, *args))


@pytest.fixture
def stamped(built: Space) -> Space:
    """A project whose last no-op is known."""
    time.sleep(2 * kept.TICK / 1e9)  # what was written a moment ago proves nothing
    assert "is up to date" in built.run().err
    assert known(built) is not None
    return built


def rewrite(path: Path, change: Callable[[bytes], bytes]) -> None:
    """Change a file in place and put its times back: size and mtime stay."""
    before = path.stat()
    path.write_bytes(change(path.read_bytes()))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def swap_case(data: bytes) -> bytes:
    return data.swapcase()


def by_rename(path: Path) -> None:
    beside = path.with_suffix(".new")
    beside.write_bytes(path.read_bytes())
    os.replace(beside, path)


def first(folder: Path) -> Path:
    return min(path for path in folder.rglob("*") if path.is_file())


def linked(path: Path) -> None:
    """Put a copy in the place of a folder, by a link."""
    shutil.copytree(path, path.with_name("copy"))
    path.rename(path.with_name("before"))
    path.symlink_to("copy")


def base_elsewhere(root: Path) -> None:
    link = root / "models/tiny"
    shutil.copytree(link, root / "models/other")
    link.unlink()
    link.symlink_to("other")


CHANGES: dict[str, Callable[[Path], object]] = {
    "a node is edited": lambda root: (root / NODE).write_text((root / NODE).read_text() + "\nMore.\n"),
    "a node is edited and keeps size and mtime": lambda root: rewrite(root / NODE, swap_case),
    "a node is replaced by rename": lambda root: by_rename(root / NODE),
    "a node is touched": lambda root: os.utime(root / NODE),
    "a node is dated into the future": lambda root: os.utime(root / NODE, (4e9, 4e9)),
    "a node is dated back": lambda root: os.utime(root / NODE, (1, 1)),
    "a node is new": lambda root: (root / "memory/new.md").write_text("text\n"),
    "a node is gone": lambda root: (root / "memory/j-01.md").unlink(),
    "a node is renamed": lambda root: (root / "memory/j-01.md").rename(root / "memory/j-99.md"),
    "a folder of nodes is new": lambda root: (root / "memory/deep").mkdir(),
    "the memory is another folder": lambda root: linked(root / "memory"),
    "the Personafile is edited": lambda root: rewrite(root / "Personafile.toml", lambda d: d.replace(b"0.5", b"0.4")),
    "the Personafile is gone": lambda root: (root / "Personafile.toml").unlink(),
    "a recipe is edited": lambda root: rewrite(root / "recipes/quick.toml", lambda d: d.replace(b"= 3", b"= 4")),
    "a recipe is new": lambda root: (root / "recipes/other.toml").write_text('kind = "task"\n'),
    "the base is another one": base_elsewhere,
    "a product file is edited": lambda root: rewrite(root / "dist/tess/persona.json", swap_case),
    "a product file is gone": lambda root: (root / "dist/tess/readout.json").unlink(),
    "a product file in a folder is gone": lambda root: first(root / "dist/tess/steering").unlink(),
    "the product is gone": lambda root: shutil.rmtree(root / "dist"),
    "the product was moved": lambda root: (root / "dist/tess").rename(root / "dist/other"),
    "the cache is gone": lambda root: shutil.rmtree(root / "cache"),
    "the objects are gone": lambda root: shutil.rmtree(root / "cache/v1/objects"),
    "one object is gone": lambda root: first(root / "cache/v1/objects").unlink(),
    "one tree is gone": lambda root: first(root / "cache/v1/trees").unlink(),
    "one record is gone": lambda root: first(root / "cache/v1/actions").unlink(),
    "the state is gone": lambda root: shutil.rmtree(root / "cache/v1/state"),
    "the record of the build is gone": lambda root: shutil.rmtree(root / "cache/v1/builds"),
}


@pytest.mark.parametrize("change", CHANGES)
def test_every_change_ends_what_was_known(stamped: Space, change: str) -> None:
    CHANGES[change](stamped.root)
    assert known(stamped) is None
    assert known(stamped, "--explain") is None


def test_what_is_known_is_what_the_whole_program_says(stamped: Space) -> None:
    for args in ((), ("--explain",)):
        answer = known(stamped, *args)
        assert answer is not None
        found = looked(stamped, *args)
        assert (plain(answer[0]), plain(answer[1])) == (plain(found.out), plain(found.err))


def test_reading_and_what_lies_beside_change_nothing(stamped: Space) -> None:
    (stamped.root / NODE).read_text()
    (stamped.product / "notes.txt").write_text("mine")
    stamped.write("notes.txt", "mine")
    assert known(stamped) is not None


def test_an_edit_that_is_undone_comes_to_the_same(stamped: Space) -> None:
    text = stamped.read(NODE)
    stamped.write(NODE, text.replace("boat", "ship"))
    assert known(stamped) is None
    stamped.write(NODE, text)
    assert known(stamped) is None  # it was written: that it is the same, only reading says
    time.sleep(2 * kept.TICK / 1e9)
    assert "is up to date" in stamped.run().err
    assert known(stamped) is not None


@pytest.mark.parametrize("args", [("--without", "close"), ("--set", "link.density=0.25"), ("task.listen",)])
def test_each_selection_is_known_by_itself(stamped: Space, args: tuple[str, ...]) -> None:
    assert known(stamped, *args) is None
    assert stamped.run(*args).code == 0
    assert known(stamped, *args) is not None
    part = args == ("task.listen",)  # of what is up to date: nothing was written
    assert (known(stamped) is not None) == part
    assert ("is up to date" in looked(stamped).err) == part
    stamped.run()
    assert known(stamped) is not None
    assert (known(stamped, *args) is not None) == part


def test_another_folder_for_the_product_is_another_question(stamped: Space) -> None:
    assert known(stamped, "-o", "out") is None
    assert stamped.run("-o", "out").code == 0
    assert known(stamped, "-o", "out") is not None
    shutil.rmtree(stamped.root / "out")
    assert known(stamped, "-o", "out") is None
    stamped.run()
    assert known(stamped) is not None


@pytest.mark.parametrize(
    "args", [("--json",), ("-n",), ("--locked",), ("--check",), ("--force", "task.listen"), ("--all",)]
)
def test_other_questions_are_always_looked_into(stamped: Space, args: tuple[str, ...]) -> None:
    stamped.run(*args)
    assert known(stamped, *args) is None


def test_quiet_is_quiet(stamped: Space) -> None:
    stamped.run("-q")
    assert known(stamped, "-q") == ("", "")


def test_another_cache_or_setting_is_another_question(stamped: Space, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AMYBUILD_CACHE", str(stamped.root / "elsewhere"))
    assert known(stamped) is None
    shutil.copytree(stamped.root / "cache", stamped.root / "elsewhere")
    assert known(stamped) is None
    monkeypatch.delenv("AMYBUILD_CACHE")
    assert known(stamped) is not None
    monkeypatch.setenv("AMYBUILD_SOMETHING", "1")
    assert known(stamped) is None


def test_two_projects_in_one_cache(stamped: Space, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AMYBUILD_CACHE", str(tmp_path / "shared"))
    shutil.copytree(stamped.root / "cache", tmp_path / "shared")
    other = Space.__new__(Space)
    other.root = tmp_path / "other"
    shutil.copytree(stamped.root, other.root, symlinks=True, ignore=shutil.ignore_patterns("cache", "dist"))
    time.sleep(2 * kept.TICK / 1e9)
    for one in (stamped, other, stamped, other):
        assert one.run().code == 0
    assert known(stamped) is not None
    assert known(other) is not None
    other.edit(NODE, "I ask before I mend.", "I ask before I fix.")
    assert known(other) is None
    assert known(stamped) is not None


def test_an_installed_library_is_noticed(stamped: Space, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    packages = tmp_path / "site-packages"
    monkeypatch.syspath_prepend(str(packages))
    assert known(stamped) is None  # another sys.path
    stamped.run()
    assert known(stamped) is not None
    (packages / "torch-0.1.dist-info").mkdir(parents=True)
    assert known(stamped) is None
    assert "up-to-date" not in {t["state"] for t in stamped.explain()["targets"]}


def test_what_was_edited_a_moment_before_proves_nothing(built: Space, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kept, "TICK", 10**12)  # a slow machine takes its time between the edit and the build
    for i in range(6):
        built.write("memory/j-01.md", f"Text {i}.\n\nworry:9\n")
        before = looked(built, "task.listen").err  # a journal entry is no part of it
        assert "is up to date" in before or "ran" in before
        built.run("task.listen")
        assert known(built, "task.listen") is None


@pytest.mark.parametrize("cut", [0, 1, 4, 5, 100, -1])
def test_half_a_stamp_is_none(stamped: Space, cut: int) -> None:
    (path,) = (stamped.root / "cache/v1/noop").iterdir()
    path.write_bytes(path.read_bytes()[:cut])
    assert known(stamped) is None
    assert "is up to date" in stamped.run().err
    assert known(stamped) is not None


def test_a_flipped_bit_is_found(stamped: Space) -> None:
    (path,) = (stamped.root / "cache/v1/noop").iterdir()
    whole = path.read_bytes()
    chance = random.Random(0)
    for _ in range(300):
        at = chance.randrange(len(whole))
        path.write_bytes(whole[:at] + bytes([whole[at] ^ (1 << chance.randrange(8))]) + whole[at + 1 :])
        assert known(stamped) is None


def test_stamps_do_not_pile_up(stamped: Space) -> None:
    for i in range(noop.MOST + 5):
        noop.keep((str(stamped.root / f"cache/v1/noop/{i:08x}"), "x"), "", "", {})
    assert len(list((stamped.root / "cache/v1/noop").iterdir())) == noop.MOST


def test_a_cache_that_cannot_be_written_keeps_no_stamp(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    noop.keep((str(tmp_path / "file/noop/x"), "x"), "", "", {})
    assert noop.question(["-C"])  # an option without its value is for the parser to refuse
    assert noop.answer(["-C"]) is None


def test_random_edits_never_leave_a_wrong_answer(stamped: Space) -> None:
    """Whatever is done in whatever order, what is known is what the whole program would say."""
    chance = random.Random(7)
    nodes = sorted((stamped.root / "memory").glob("j-*.md"))
    texts = {path: path.read_text() for path in nodes}
    hits = 0
    for _ in range(24):
        path = chance.choice(nodes)
        match chance.randrange(8):
            case 0:
                path.write_text(texts[path] + chance.choice(["", "\n"]))
            case 1:
                (stamped.product / "README.md").write_text("edited")
            case 2:
                stamped.run("task.listen")
            case 3:
                stamped.run("task.close")
            case _:
                time.sleep(2 * kept.TICK / 1e9)
                stamped.run("task.close")
        for args in ((), ("task.listen",), ("task.close",)):
            answer = known(stamped, *args)
            states = looked(stamped, "-n", *args).out
            if answer is not None:
                hits += 1
                assert "would run" not in states
                if not args:
                    assert (stamped.product / "README.md").read_text() != "edited"
    assert hits > 5


def test_the_program_itself_and_a_real_process(stamped: Space, tmp_path: Path) -> None:
    """A copy of the program, asked as a user asks; then one of its functions changes."""
    shutil.copytree(Path(amybuild.__file__).parent, tmp_path / "lib/amybuild")
    script = (
        "import sys\nfrom amybuild.cli import main\nassert main() == 0\n"
        "print(sorted({'argparse', 'json', 'pathlib', 'typing', 're', 'enum', 'signal', 'dataclasses',"
        " 'amybuild.build'} & set(sys.modules)))\n"
    )

    def ask(*args: str, how: tuple[str, str] = ("-c", script)) -> tuple[str, str]:
        env = {**os.environ, "PYTHONPATH": f"{tmp_path / 'lib'}:{ROOT}"}
        command = [sys.executable, *how, *args]
        done = subprocess.run(command, cwd=stamped.root, env=env, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout, done.stderr

    out, err = ask()
    assert "amybuild.build" in out
    time.sleep(2 * kept.TICK / 1e9)
    ask()  # the first one may have made the __pycache__ folders
    assert ask("--explain") == ("tess is up to date (27 actions)\n[]\n", "")
    out, again = ask()
    assert out == "[]\n"
    assert plain(again) == plain(err)
    for _ in range(2):  # the second one is answered at once
        out, again = ask(how=("-m", "amybuild"))
        assert (out, plain(again)) == ("", plain(err))
    path = tmp_path / "lib/amybuild/actions/corpus.py"
    path.write_text(path.read_text().replace("MIN_TRAIN = 4", "MIN_TRAIN = 3"))
    out, err = ask("--explain")
    assert "code changed" in out


@pytest.mark.parametrize("closed", ["> /dev/full", ">&-", "2>&-", "2> /dev/full", ">&- 2>&-", "| true"])
@pytest.mark.parametrize("flags", ["", "--explain"])
def test_an_output_that_cannot_be_written_is_no_traceback(stamped: Space, closed: str, flags: str) -> None:
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    for setting in ("", "AMYBUILD_NO_STAMP=1"):
        line = f"{setting} {sys.executable} -m amybuild {flags} {closed}"
        done = subprocess.run(line, shell=True, cwd=stamped.root, env=env, capture_output=True, text=True, check=False)
        assert "Traceback" not in done.stderr
        assert done.returncode == 0 or "full" in closed


def test_a_stream_that_the_caller_closed_is_no_traceback_after_an_edit_either(stamped: Space) -> None:
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    for turn, closed in enumerate(("", ">&-", "2>&-", "<&- >&- 2>&-")):
        line = f"{sys.executable} -m amybuild {closed}"
        done = subprocess.run(line, shell=True, cwd=stamped.root, env=env, capture_output=True, text=True, check=False)
        assert (done.returncode, "Traceback" in done.stderr) == (0, False), (closed, done.stderr)
        stamped.write("memory/pattern-listen.md", stamped.read("memory/pattern-listen.md") + f"\nTurn {turn}.\n")
        time.sleep(2 * kept.TICK / 1e9)


def test_what_is_said_of_a_target_that_was_asked_for_is_not_what_is_said_of_all(stamped: Space) -> None:
    assert stamped.run("task.listen").code == 0
    assert known(stamped, "task.listen") is not None
    asked = plain(stamped.run("--explain", "task.listen").out)
    assert asked == plain(looked(stamped, "--explain", "task.listen").out)
    assert "components as they were" in asked


def test_damage_inside_an_object_is_seen_by_the_no_op_that_looks_at_it(stamped: Space) -> None:
    """No folder shows it: of a small project every object is looked at, of a large one some, other ones each time."""
    store = stamped.root / "cache/v1"
    listing = json.loads(first(store / "trees").read_bytes())
    digest = next(one[0] for one in listing["files"].values() if one[1])
    path = store / "objects" / digest[:2] / digest
    path.chmod(0o644)
    rewrite(path, lambda data: bytes([data[0] ^ 1]) + data[1:])
    assert known(stamped) is None
    assert "was damaged" in stamped.run().err
