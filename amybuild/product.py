"""The product: trees from the store become ``dist/<persona>/`` in one rename, with persona.json and a model card."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from amybuild import __version__
from amybuild.cache.actions import ActionCache, Record
from amybuild.cache.disk import remove_tree, tellable
from amybuild.cache.memo import stamp
from amybuild.cache.store import Store, disk_errors, sync_folder
from amybuild.digest import digest_bytes, digest_value
from amybuild.errors import CacheDamage, InputError
from amybuild.provenance import sha256, statement

if TYPE_CHECKING:
    from amybuild.personafile.schema import Persona, Readout, Steer, Task

MARK = "persona.json"
CARD = "README.md"
PROVENANCE = "provenance.json"
_ELSEWHERE = "choose another folder with -o"
_ACCOUNT = (MARK, CARD, PROVENANCE)  # what tells how the product came about; the other files are results
# what a build record calls its link map: a result like others, so that it stays and travels
PRODUCT = "persona/product"


def _json(store: Store, output: str, name: str) -> dict[str, Any]:
    data = store.read_file(output, name)
    return json.loads(data) if data else {}


def _measured(before: Mapping[str, Any]) -> dict[str, Any]:
    """Output of a vector's `verify` -> what it says, as a link map has it."""
    outputs = before.get("actions", {})
    return {outputs[f"task.{one['name']}/verify"]["output"]: one["verify"] for one in before.get("targets", ())}


def _corpus(store: Store, task: Task, outputs: Mapping[str, str], before: Mapping[str, Any]) -> dict[str, Any]:
    """The card of a task's corpus without its nodes, and how many tokens were trained on; counts, no text."""
    made = [f"{task.target}/corpus", task.vector]
    known, earlier = before.get("actions", {}), {one["name"]: one for one in before.get("targets", ())}
    if "corpus" in earlier.get(task.name, {}) and all(known.get(id, {}).get("output") == outputs[id] for id in made):
        return dict(earlier[task.name]["corpus"])
    card = _json(store, outputs[made[0]], "card.json")
    trained = _json(store, outputs[task.vector], "train.json") if task.vector.endswith("/train") else {}
    return {name: value for name, value in card.items() if name != "nodes"} | {"tokens": trained.get("tokens")}


def _watch(store: Store, task: Task, outputs: Mapping[str, str], before: Mapping[str, Any]) -> dict[str, Any]:
    """Which step a watched training gave, and why."""
    vector = outputs[task.vector]
    earlier = next((one for one in before.get("targets", ()) if one["vector"] == vector and "watch" in one), None)
    return dict(earlier["watch"] if earlier else _json(store, vector, "train.json")["watch"])


def _task(
    store: Store, task: Task, outputs: Mapping[str, str], measured: Mapping[str, Any], before: Mapping[str, Any]
) -> dict[str, Any]:
    verify = outputs[f"{task.target}/verify"]
    entry: dict[str, Any] = {
        "name": task.name,
        "alpha": task.alpha,
        "vector": outputs[task.vector],
        "verify": measured[verify] if verify in measured else _json(store, verify, "verify.json"),
    }
    if task.vector.endswith("/train"):
        entry |= {"recipe": task.recipe.name, **{key: task.recipe.fields[key] for key in ("learn", "rank")}}
        if task.recipe.fields["watch_every"]:
            entry["watch"] = _watch(store, task, outputs, before)
    if task.has_dialogues:
        entry["corpus"] = _corpus(store, task, outputs, before)
    if task.analogy:
        entry["analogy"] = {"a": task.analogy.a, "b": task.analogy.b, "c": task.analogy.c}
    told = {key: getattr(task, key) for key in ("node", "query", "checkpoint", "adapter")}
    entry |= {key: value for key, value in told.items() if value is not None}
    entry |= {key: True for key in ("examples", "chat") if getattr(task, key) is not None}  # a name may tell of people
    if task.scale:
        entry["scale"] = [dict(row) for row in task.scale]
    return entry


def _measured_readout(store: Store, outputs: Mapping[str, str]) -> dict[str, Any]:
    """What quality.json and drift.json say of the readout, in short."""
    quality = _json(store, outputs["readout/quality"], "quality.json")
    drift = _json(store, outputs["persona/drift"], "drift.json")
    told = ("auc", "auc_interval", "auc_bow", "flags")
    concepts = {name: {key: one[key] for key in told} for name, one in quality.get("concepts", {}).items()}
    for name, one in drift.get("concepts", {}).items():
        concepts[name] |= {"drift": one["lost"]}
    return {"median_auc": quality.get("median_auc"), "quality": concepts, "drifted": drift.get("drifted", [])}


def _texts(store: Store, direction: Steer | Readout, outputs: Mapping[str, str]) -> dict[str, Any]:
    """The card of the texts that a direction was found from, where there is one; counts, no text."""
    card = _json(store, outputs[f"{direction.target}/labels"], "card.json")
    return {"texts": {key: card[key] for key in ("texts", "short", "per_concept", "warnings") if key in card}}


def link_map(
    persona: Persona,
    store: Store,
    build: str,
    outputs: Mapping[str, str],
    graph: Mapping[str, Any],
    keys: Mapping[str, str],
    made_from: Mapping[str, Any],
    before: Mapping[str, Any],
) -> dict[str, Any]:
    """persona.json: what the product was made of, by digest, and what was measured. No text of any memory.

    What the link map of an earlier build, `before`, tells of the same results is not read again."""
    measured = _measured(before)
    base = persona.base
    readout = _json(store, outputs["readout/vectors"], "readout.json") if persona.readout else {}
    targets = [_task(store, task, outputs, measured, before) for task in persona.linked()]
    return {
        "schema": 1,
        "name": persona.name,
        "build": build,
        "amybuild": __version__,
        "base": {
            "name": base.name,
            "source": _joined(base.wheel) or base.hub or base.path,
            "revision": base.revision,
            "file": _joined(base.file),
            "digest": outputs[f"base.{base.name}/import"],
        },
        "graph": dict(graph),
        "made_from": dict(made_from),
        "targets": targets,
        "steering": [
            {**_how(steer), "digest": outputs[f"{steer.target}/vectors"], **_texts(store, steer, outputs)}
            for steer in persona.steers
        ],
        "link": _json(store, outputs["checkpoint/link"], "link.json"),
        "adapter": _adapter(store, outputs) if persona.link.adapter_rank else None,
        "readout": {"concepts": readout.get("concepts", []), "layers": readout.get("layers", [])}
        | (_texts(store, persona.readout, outputs) | _measured_readout(store, outputs) if persona.readout else {}),
        "verification": _json(store, outputs["persona/verify"], "verify.json"),
        "actions": {id: {"key": keys[id], "output": output} for id, output in sorted(outputs.items())},
    }


def _adapter(store: Store, outputs: Mapping[str, str]) -> dict[str, Any]:
    """What the merged adapter misses, and what it does to each behaviour."""
    measured = _json(store, outputs["persona/adapter"], "measure.json")
    return _json(store, outputs["checkpoint/adapter"], "adapter.json") | {"measured": measured}


def _how(steer: Steer) -> dict[str, Any]:
    return {key: getattr(steer, key) for key in ("name", "emotion", "apply", "alpha_pos", "alpha_neg")}


def steers_as(info: Mapping[str, Any], persona: Persona) -> bool:
    """Whether a link map tells of each steering target how the persona steers by it now: no result depends on that."""
    told = info.get("steering", ())
    now = [_how(steer) for steer in persona.steers]
    return len(told) == len(now) and all(how.items() <= one.items() for how, one in zip(now, told, strict=True))


def encode(value: Mapping[str, Any]) -> str:
    """JSON with an entry on each line, sorted: stable, and a change shows as the lines that it changes.

    Not by ``indent``: that is the encoder in Python, ten times slower than the one in C."""
    return json.dumps(value, sort_keys=True, ensure_ascii=False, separators=(",\n", ": "))


def _joined(value: str | tuple[str, ...] | None) -> str | None:
    return " + ".join(value) if isinstance(value, tuple) else value


def _text(value: Mapping[str, Any]) -> bytes:
    return encode(value).encode() + b"\n"


def keep_map(cache: ActionCache, info: Mapping[str, Any], when: str) -> tuple[str, str]:
    """Put a link map into the store (the caller closes it); its key and output, for the build record and the lock."""
    return keep_text(cache, _text(info), when)


def keep_text(cache: ActionCache, text: bytes | bytearray, when: str) -> tuple[str, str]:
    """`keep_map`, of the bytes of persona.json."""
    output = cache.store.put_file(MARK, text)
    key = digest_value("product", output)
    if cache.lookup(key) is None:
        cache.publish(Record(PRODUCT, "product", key, (), output, 0.0, when))
    return key, output


def kept_map(store: Store, output: str) -> dict[str, Any] | None:
    """The link map that `keep_map` put there, or None when it is not (whole) here."""
    try:
        found = json.loads(store.read_file(output, MARK) or b"null")
    except (ValueError, CacheDamage):
        return None
    return found if isinstance(found, dict) else None


def intact(folder: Path, files: Mapping[str, Any]) -> list[str]:
    """The product files that are missing or were changed since they were put there (empty: all is well)."""
    wrong = []
    for name, was in files.items():
        try:
            now = stamp(folder / name)
        except OSError:
            now = []
        if now != was:
            wrong.append(name)
    return wrong


def publish(cache: ActionCache, info: Mapping[str, Any], folder: Path, ours: Mapping[str, Any]) -> dict[str, list[int]]:
    """Put the product described by `info` (a `link_map`) into `folder`; returns the stamp of each file.

    Files in the old one that are not the product's (`ours` names those) are kept."""

    def fill(beside: Path) -> tuple[set[str], Collection[str]]:
        same = _same(folder, info, ours)
        return _fill(cache, info, beside, folder, same), same

    return _put(cache.store, folder, ours, fill)


def amend(
    store: Store, folder: Path, ours: Mapping[str, Any], texts: Mapping[str, bytes | bytearray]
) -> dict[str, list[int]]:
    """Other texts for some files of the product in `folder`; the stamp of each file. Raises CacheDamage when `ours`,
    the stamps of all of them, are not what lies there."""

    def fill(beside: Path) -> tuple[set[str], Collection[str]]:
        if intact(folder, ours):
            raise CacheDamage("the product was changed from outside", where=str(folder))
        same = ours.keys() - texts.keys()
        _link(folder, beside, same)
        for name, text in texts.items():
            (beside / name).write_bytes(text)
            _sync(beside / name)
        return set(ours), same

    return _put(store, folder, ours, fill)


def _put(
    store: Store, folder: Path, ours: Mapping[str, Any], fill: Callable[[Path], tuple[set[str], Collection[str]]]
) -> dict[str, list[int]]:
    """Make the new folder beside, by `fill`, and rename it into place; one that was being replaced when its process
    died is taken back first. `fill` says the names of the files, and of those that are links to the old ones."""
    with disk_errors(tellable(folder), _ELSEWHERE):
        folder.parent.mkdir(parents=True, exist_ok=True)
        beside, old = folder.parent / f".{folder.name}.new", folder.parent / f".{folder.name}.old"
        with store.lock(f"product-{digest_bytes(os.fsencode(folder))[:16]}"):
            if old.exists() and not folder.exists():
                os.rename(old, folder)
            if folder.exists() and not _is_product(folder, ours):
                raise InputError("exists and is no product of amybuild", where=str(folder), remedy=_ELSEWHERE)
            remove_tree(beside)
            try:
                names, same = fill(beside)
                if folder.exists():
                    _keep_others(folder, beside, set(ours) | names)
                    remove_tree(old)
                    os.rename(folder, old)
                os.rename(beside, folder)
                sync_folder(folder.parent)
            except BaseException:
                remove_tree(beside)
                raise
            remove_tree(old)
            stamps = {name: stamp(folder / name) for name in sorted(names)}
    for name in same:  # only its links changed, if nobody wrote to it meanwhile; if somebody did, that will show
        stamps[name] = [*ours[name][:2], stamps[name][2], ours[name][3]]
    return stamps


def _is_product(folder: Path, ours: Mapping[str, Any]) -> bool:
    """Whether a folder may be replaced: it is empty, has the mark of a product, or a file that we put there."""
    if not folder.is_dir():
        return False
    return (folder / MARK).is_file() or not any(folder.iterdir()) or len(intact(folder, ours)) < len(ours)


def _same(folder: Path, info: Mapping[str, Any], ours: Mapping[str, Any]) -> dict[str, str]:
    """The sha256 of each file that need not be copied from the store again, by name.

    They are there if `folder` holds this very build untouched, and only the account of how it came about is new."""
    if PROVENANCE not in ours or intact(folder, ours):
        return {}
    try:
        proof = json.loads((folder / PROVENANCE).read_bytes())
        run = proof["predicate"]["runDetails"]
        if (run["metadata"]["invocationId"], run["builder"]["version"]["amybuild"]) != (
            info["build"],
            info["amybuild"],
        ):
            return {}
        known = {one["name"]: one["digest"]["sha256"] for one in proof["subject"]}
        return {name: known[name] for name in ours if name not in _ACCOUNT}
    except (OSError, ValueError, KeyError, TypeError):
        return {}


def _fill(cache: ActionCache, info: Mapping[str, Any], folder: Path, old: Path, same: Mapping[str, str]) -> set[str]:
    """Write the product's files into an empty folder, and to the disk; their names come back.

    Those that are the `same` in the `old` folder are links to them: that one goes as soon as this one is in place."""
    from amybuild.link.card import model_card

    _link(old, folder, same)
    if not same:
        _export(cache.store, info, folder)
    (folder / MARK).write_bytes(_text(info))
    (folder / CARD).write_text(model_card(info), encoding="utf-8")
    files = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if path.is_file()}
    digests = {name: same.get(name) or sha256(path) for name, path in files.items()}
    files[PROVENANCE] = folder / PROVENANCE
    files[PROVENANCE].write_bytes(_text(statement(info, digests, _runs(cache, info))))
    for name in files.keys() - same.keys():
        _sync(files[name])
    return set(files)


def _link(old: Path, new: Path, names: Iterable[str]) -> None:
    """A folder with links to files of another one."""
    new.mkdir()
    for name in names:
        (new / name).parent.mkdir(parents=True, exist_ok=True)
        os.link(old / name, new / name)


def _sync(path: Path) -> None:
    with open(path, "rb") as file:
        os.fsync(file.fileno())


def _export(store: Store, info: Mapping[str, Any], folder: Path) -> None:
    """The files that results in the store are: the checkpoint, its adapter, the readout, the steering vectors."""
    outputs = {id: entry["output"] for id, entry in info["actions"].items()}
    store.export(outputs["checkpoint/link"], folder)
    (folder / "link.json").unlink(missing_ok=True)  # it is in persona.json
    if "checkpoint/adapter" in outputs:
        store.export(outputs["checkpoint/adapter"], folder / "adapter")
        (folder / "adapter" / "adapter.json").unlink()  # it is in persona.json
    if "readout/vectors" in outputs:
        store.export(outputs["readout/vectors"], folder)
    for entry in info["steering"]:
        store.export(entry["digest"], folder / "steering" / entry["name"])
    places = {
        "readout": folder,
        **{f"steer.{one['name']}": folder / "steering" / one["name"] for one in info["steering"]},
    }
    for target, place in places.items():
        if f"{target}/quality" in outputs:
            store.export(outputs[f"{target}/quality"], place)
    _index(folder)


def _index(folder: Path) -> None:
    """Name the files that are weights: without an index vLLM takes readout.safetensors for some, and does not load."""
    from amybuild.link.tensors import INDEX, SINGLE, read_shard

    if (folder / SINGLE).is_file() and not (folder / INDEX).is_file():
        tensors = read_shard(folder / SINGLE, "checkpoint").tensors
        size = sum(stored.stop - stored.start for stored in tensors)
        names = sorted(stored.name for stored in tensors)
        index = {"metadata": {"total_size": size}, "weight_map": dict.fromkeys(names, SINGLE)}
        (folder / INDEX).write_text(json.dumps(index, indent=1) + "\n", encoding="utf-8")


def _runs(cache: ActionCache, info: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """The action records behind a build, as far as they can still be read."""
    for id, entry in info["actions"].items():
        record = cache.told(entry["key"])
        if record is not None and record.output == entry["output"]:
            told = {name: getattr(record, name) for name in ("key", "output", "seconds", "finished", "host")}
            yield {**told, "action": id}  # two actions with one key have one record


def _keep_others(old: Path, new: Path, known: set[str]) -> None:
    """Take what somebody else put into the old product folder along into the new one: files as links, so that they are
    in both until the old one goes, and empty folders too (a git repository without some is none)."""
    ours = known | {parent.as_posix() for name in known for parent in Path(name).parents}
    for name in sorted({path.relative_to(old).as_posix() for path in old.rglob("*")} - ours):
        path, taken = old / name, new / name
        try:
            taken.parent.mkdir(parents=True, exist_ok=True)
            if path.is_symlink():
                os.symlink(os.readlink(path), taken)
            elif path.is_dir():
                taken.mkdir()
            else:
                os.link(path, taken)
        except (FileExistsError, NotADirectoryError):
            what = f"{name} lies where a file of ours belongs"
            raise InputError(what, where=str(old), remedy="move it away") from None
