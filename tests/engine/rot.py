"""Ways in which a file of the cache can rot; after each: right results, no traceback, no retraining."""

from __future__ import annotations

import random
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.engine import fakes
from tests.engine.machine import no_fsync, read_files
from tests.engine.states import product_of

STRANGE: tuple[bytes, ...] = (
    *(b"", b"{}", b"[]", b"null", b"0", b'"text"', b"\xff\xfe\x00bytes", b"\0" * 64, b"[" * 5000, b"1" * 5000),
    *(b'{"schema":1}', b'{"schema":99}', b"[[]]", b'{"a":' * 400, b"NaN", b"-1e999", b"\n" * 100),
)
TYPES: tuple[bytes, ...] = (b"[]", b"{}", b"null", b"7", b"1e999", b'"x"', b"[[[]]]", b"true", b"9" * 400)


@dataclass(frozen=True)
class Rot:
    """One damage: what the file holds afterwards (None: it is a folder), and its name for a message."""

    name: str
    data: bytes | None
    same_size: bool = False


def damages(data: bytes, rng: random.Random, few: int) -> Iterator[Rot]:
    """Cut at `few` lengths (and next to both ends), a bit flipped at `few` places, other types, garbage, a folder."""
    size = len(data)
    for length in (
        sorted({0, 1, size - 1, *(rng.randrange(size) for _ in range(few))} & set(range(size))) if size else ()
    ):
        yield Rot(f"cut to {length} of {size}", data[:length])
    for _ in range(few if size else 0):
        at, bit = rng.randrange(size), 1 << rng.randrange(8)
        yield Rot(f"bit {bit} of byte {at} flipped", bytes([*data[:at], data[at] ^ bit, *data[at + 1 :]]), True)
    for other in rng.sample(STRANGE, min(few, len(STRANGE))):
        yield Rot(f"replaced by {other[:20]!r}", other, len(other) == size)
    yield from retyped(data, rng, few)
    yield Rot("doubled", data * 2)
    yield Rot("replaced by a folder", None)


def retyped(data: bytes, rng: random.Random, few: int) -> Iterator[Rot]:
    """JSON in which one value has another type: it parses, so only checks of types can help."""
    if data[:1] != b"{":
        return
    starts = [i + 1 for i, byte in enumerate(data) if byte in b":[," and i + 1 < len(data)]
    for _ in range(few if starts else 0):
        at = rng.choice(starts)
        end = value_end(data, at)
        other = rng.choice(TYPES)
        yield Rot(f"{data[at:end][:24]!r} at {at} became {other[:9]!r}", data[:at] + other + data[end:])


def value_end(data: bytes, at: int) -> int:
    """Where the JSON value that begins at `at` ends (compact JSON)."""
    depth, quoted = 0, False
    for i in range(at, len(data)):
        byte = data[i : i + 1]
        if quoted:
            quoted = not (byte == b'"' and data[i - 1 : i] != b"\\")
        elif byte == b'"':
            quoted = True
        elif byte in b"{[":
            depth += 1
        elif byte in b"}],":
            if depth == 0:
                return i
            depth -= byte in b"}]"
    return len(data)


def apply(path: Path, rot: Rot) -> None:
    path.chmod(0o644)
    if rot.data is None:
        path.unlink()
        (path / "inside").mkdir(parents=True)
    else:
        path.write_bytes(rot.data)


class Patient:
    """A built project with cheap actions, whose cache files are damaged one at a time."""

    def __init__(self, root: Path) -> None:
        self.space = fakes.project(root / "project")
        self.cache = self.space.root / "cache" / "v1"
        with fakes.cheap(), no_fsync():
            self.space.build()
            self.space.edit("Personafile.toml", "density = 0.5", "density = 0.6")  # an earlier build is in there too
            self.space.build()
            assert self.space.run("pin", "--name", "here").code == 0
        self.product = product_of(self.space)
        self.learn()
        shutil.copytree(self.space.root, root / "backup", symlinks=True)

    def recover(self) -> None:
        """Everything as it was at first."""
        shutil.rmtree(self.space.root)
        shutil.copytree(self.space.root.parent / "backup", self.space.root, symlinks=True)
        with fakes.cheap(), no_fsync():
            self.space.build()

    def files(self) -> list[str]:
        """Every file of the cache, whatever it is for."""
        found = [p for p in self.cache.rglob("*") if p.is_file() and p.suffix != ".lock"]
        return sorted(p.relative_to(self.cache).as_posix() for p in found)

    def harm(self, name: str, rot: Rot, detects_flips: bool) -> None:
        """Damage, then every command, then look; the file is put back in the end."""
        path, told = self.cache / name, f"{name}: {rot.name}"
        whole = path.read_bytes()
        apply(path, rot)
        unseen = name.startswith("objects/") and rot.same_size and not detects_flips
        try:
            with fakes.cheap(), no_fsync():
                self.ask(name, told)
                after = self.space.run("--json")
                assert after.code == 0, f"{told}: exit {after.code} {after.err} {after.out}"
                allowed = self.may_run(name)
                assert after.ran <= allowed, f"{told}: made again {after.ran - allowed}"
                if not unseen:
                    assert product_of(self.space) == self.product, f"{told}: another product"
                again = self.space.run("--json")
                assert (again.code, again.summary["ran"]) == (0, []), f"{told}: the second build runs {again.out}"
        finally:
            if path.is_dir():
                shutil.rmtree(path)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.unlink(missing_ok=True)
            path.write_bytes(whole)
            if name.startswith("objects/"):
                path.chmod(0o444)

    def ask(self, name: str, told: str) -> None:
        """The commands that only read: any exit code, never a traceback."""
        commands = (["--explain", "--json"], ["--explain"], ["-n"], ["log"], ["show"], ["diff", "here", "here"])
        for command in random.Random(told).sample(commands, 2):
            try:
                self.space.run(*command)
            except Exception as error:
                raise AssertionError(f"{told}: {' '.join(command)}: {type(error).__name__}: {error}") from error
        if name.startswith("builds/"):  # the one command that publishes what a build record says
            out = self.space.root.parent / "out"
            shutil.rmtree(out, ignore_errors=True)
            if self.space.run("checkout", "here", "-o", str(out)).code == 0:
                found = {name: data for name, data in read_files(out).items() if name != "provenance.json"}
                assert found == self.product, f"{told}: checkout made another product"

    def may_run(self, name: str) -> set[str]:
        """Whose result a file is: an object, a tree or a record. Everything else is state: nothing may run."""

        room, _, rest = name.partition("/")
        if room not in ("objects", "trees", "actions"):
            return set()
        return {id for id, files in self.owners.items() if rest.rpartition("/")[2] in files}

    def learn(self) -> None:
        """Which files hold the current result of each action."""
        from amybuild.cache.actions import ActionCache
        from amybuild.cache.store import Store

        store = Store(self.cache)
        cache, self.owners = ActionCache(store), dict[str, set[str]]()
        for target in self.space.explain()["targets"]:
            for action in target["actions"]:
                record = cache.lookup(action["key"])
                assert record is not None
                objects = {entry.digest for entry in (store.tree(record.output) or {}).values()}
                self.owners[action["action"]] = {f"{action['key']}.json", f"{record.output}.json", *objects}


def detects_flips(root: Path) -> bool:
    """Whether the store notices that an object changed but kept its size (asked of the store itself)."""
    from amybuild.cache.store import Store

    store = Store(root)
    out = store.scratch() / "out"
    out.mkdir()
    (out / "f").write_bytes(b"text")
    digest = store.put_tree(out)
    for path in (root / "objects").rglob("*"):
        if path.is_file():
            path.chmod(0o644)
            path.write_bytes(b"tex7")
    store.close()
    return Store(root).tree(digest) is None


def harm_all(root: Path, seed: int, few: int, share: float) -> tuple[int, list[str]]:
    """Damage a `share` of the cache's files in `few` ways of each kind; (how many damages, what went wrong)."""
    rng = random.Random(f"rot {seed}")
    seen = detects_flips(root / "probe")
    patient = Patient(root)
    count, wrong = 0, []
    for name in patient.files():
        content_addressed = name.startswith(("objects/", "trees/", "actions/"))
        if content_addressed and rng.random() > share:
            continue
        for rot in damages((patient.cache / name).read_bytes(), rng, few):
            count += 1
            try:
                patient.harm(name, rot, seen)
            except AssertionError as error:
                wrong.append(str(error)[:2000])
                patient.recover()
    return count, wrong
