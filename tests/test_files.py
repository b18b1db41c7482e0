"""Spec files and their JSON Schema, and writing files whole or not at all."""

from __future__ import annotations

import copy
import json
import os
import re
import signal
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema  # type: ignore[import-untyped]
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from densespec.atomic import UNFINISHED, atomic_path
from densespec.errors import DensespecError, SpecError, UnknownName
from densespec.network.files import (
    SpecFileError,
    read_spec,
    schema,
    spec_from_json,
    spec_from_toml,
    to_json,
    to_toml,
    write_spec,
)
from densespec.network.spec import DROPOUT_PLACES, STEM_KINDS, DenseNetSpec
from densespec.texts import LONGEST
from tests.strategies import named, specs, tiny, unhurried

SCHEMA_FILE = Path(__file__).parents[1] / "docs" / "spec.schema.json"

MINIMAL = {"blocks": [1], "growth_rate": 1}
"""The fields that a spec file can't do without."""

SUFFIXES = pytest.mark.parametrize("suffix", [".toml", ".json"])


# Reading and writing


@SUFFIXES
def test_a_file_gives_back_the_spec_written_to_it(tmp_path: Path, suffix: str) -> None:
    spec = tiny(bottleneck_width=4, stem_pool=3, compression=0.5, conv_bias=True)
    path = tmp_path / f"net{suffix}"
    write_spec(spec, path)
    assert read_spec(path) == spec
    assert read_spec(str(path)) == spec


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="pipes with names are POSIX's")
@SUFFIXES
def test_a_pipe_or_a_device_is_refused_and_not_waited_for(tmp_path: Path, suffix: str) -> None:
    pipe, device = tmp_path / f"pipe{suffix}", tmp_path / f"device{suffix}"
    os.mkfifo(pipe)
    device.symlink_to("/dev/zero")
    for path in (pipe, device):
        with pytest.raises(SpecFileError, match=rf"^{re.escape(str(path))}: a pipe, a device"):
            read_spec(path)


def test_a_text_without_end_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "net.json"
    path.touch()
    os.truncate(path, LONGEST + 1)
    with pytest.raises(SpecFileError, match=rf"^{re.escape(str(path))}: more than {LONGEST} bytes"):
        read_spec(path)


@SUFFIXES
def test_writing_replaces_the_spec_in_a_file(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"net{suffix}"
    write_spec(tiny(classes=10), path)
    write_spec(tiny(classes=100), str(path))
    assert read_spec(path).classes == 100
    assert list(tmp_path.iterdir()) == [path]


def test_json_states_every_field_and_the_format() -> None:
    spec = tiny()
    assert json.loads(to_json(spec)) == {"format": 1} | spec.to_dict()
    assert to_json(spec).endswith("}\n")


def test_toml_states_every_field_but_those_that_are_none() -> None:
    text = to_toml(tiny(bottleneck_width=None, stem_pool=3))
    stated = {line.partition(" = ")[0] for line in text.splitlines()}
    assert {"format", "growth_rate", "stem_pool", "dropout_place"} <= stated
    assert "bottleneck_width" not in stated


def test_absent_fields_take_their_defaults() -> None:
    expected = DenseNetSpec(blocks=(1,), growth_rate=1)
    assert spec_from_json('{"blocks": [1], "growth_rate": 1}') == expected
    assert spec_from_toml("blocks = [1]\ngrowth_rate = 1\n") == expected


def test_null_in_json_is_none_where_none_may_be() -> None:
    spec = spec_from_json(json.dumps(MINIMAL | {"bottleneck_width": None, "stem_pool": None}))
    assert spec.bottleneck_width is None
    assert spec.stem_pool is None


@pytest.mark.parametrize("field", ["blocks", "growth_rate", "classes", "stem_width", "padding"])
def test_null_in_json_is_refused_where_none_may_not_be(field: str) -> None:
    with pytest.raises(SpecError, match=f"{field} = None, but should be "):
        spec_from_json(json.dumps(MINIMAL | {field: None}))


def test_a_schema_reference_is_allowed_and_left_out() -> None:
    record = MINIMAL | {"$schema": "spec.schema.json", "format": 1}
    assert spec_from_json(json.dumps(record)) == DenseNetSpec(blocks=(1,), growth_rate=1)


@pytest.mark.parametrize("reference", [1, None, ["x"]], ids=repr)
def test_a_schema_reference_is_a_text(reference: object) -> None:
    with pytest.raises(SpecFileError, match=re.escape(f"$schema = {reference!r}, but should be")):
        spec_from_json(json.dumps(MINIMAL | {"$schema": reference}))


@pytest.mark.parametrize("version", [0, 2, "1", None, True, [1], 1.5], ids=repr)
def test_another_format_is_refused_by_its_number(version: object) -> None:
    expected = f"format = {version!r}, but this densespec reads format 1"
    with pytest.raises(SpecFileError, match=re.escape(expected)):
        spec_from_json(json.dumps(MINIMAL | {"format": version}))


@SUFFIXES
def test_an_unknown_key_is_refused_with_near_names(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"net{suffix}"
    text = '{"blocks": [1], "growth_rate": 1, "growth": 2}'
    path.write_text(text if suffix == ".json" else "blocks = [1]\ngrowth_rate = 1\ngrowth = 2\n")
    with pytest.raises(SpecFileError) as caught:
        read_spec(path)
    assert str(caught.value).startswith(f"{path}: unknown field of DenseNetSpec 'growth'. Did you")
    assert "growth_rate" in str(caught.value)
    assert isinstance(caught.value.__cause__, UnknownName)


@SUFFIXES
def test_a_wrong_value_is_refused_naming_file_field_and_rule(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"net{suffix}"
    text = '{"blocks": [1], "growth_rate": "12"}'
    path.write_text(text if suffix == ".json" else 'blocks = [1]\ngrowth_rate = "12"\n')
    with pytest.raises(SpecFileError) as caught:
        read_spec(path)
    assert str(caught.value) == (
        f"{path}: growth_rate = '12', but should be an integer of at least 1 and below 2**31 [S2]"
    )


@pytest.mark.parametrize(
    ("text", "kind"),
    named(
        "{0} is a {1}", ("[]", "list"), ("3", "int"), ('"densenet121"', "str"), ("null", "NoneType")
    ),
)
def test_json_that_is_no_table_is_refused(text: str, kind: str) -> None:
    with pytest.raises(SpecFileError, match=f"a spec is a table of fields, not {kind}"):
        spec_from_json(text)


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("", id="nothing"),
        pytest.param("{", id="an open brace"),
        pytest.param("{'blocks': [1]}", id="single quotes"),
        pytest.param("blocks = [1]", id="TOML"),
        pytest.param("[" * 100_000, id="deep nesting"),
    ],
)
def test_what_is_not_json_is_refused(text: str) -> None:
    with pytest.raises(SpecFileError, match=r"^the text is (no JSON|nested deeper)"):
        spec_from_json(text)


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("blocks", id="a bare word"),
        pytest.param("blocks = ", id="no value"),
        pytest.param('{"blocks": [1]}', id="JSON"),
        pytest.param("a = 1\na = 2", id="a key twice"),
        pytest.param("a = " + "[" * 100_000, id="deep nesting"),
    ],
)
def test_what_is_not_toml_is_refused(text: str) -> None:
    with pytest.raises(SpecFileError, match=r"^not TOML: "):
        spec_from_toml(text)


@pytest.mark.parametrize(
    "number",
    ["NaN", "Infinity", "-Infinity", "1e400", pytest.param("1" * 5000, id="5000 digits")],
)
def test_numbers_beyond_json_or_reason_are_refused(number: str) -> None:
    with pytest.raises((SpecError, SpecFileError)):
        spec_from_json(f'{{"blocks": [1], "growth_rate": 1, "compression": {number}}}')


def test_an_integer_too_long_to_print_is_refused() -> None:
    text = f"blocks = [1]\ngrowth_rate = 0x{'f' * 5000}\n"
    with pytest.raises(SpecError, match=r"growth_rate = <int>, but should be .* \[S2\]"):
        spec_from_toml(text)


@pytest.mark.parametrize("depth", range(900, 1000, 5))
def test_nesting_near_the_limit_of_the_parser_is_refused(depth: int) -> None:
    text = f'{{"growth_rate": 1, "blocks": {"[" * depth}{"]" * depth}}}'
    with pytest.raises((SpecError, SpecFileError)):
        spec_from_json(text)


@SUFFIXES
def test_bytes_that_are_no_text_are_refused(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"net{suffix}"
    path.write_bytes(b"\xff\xfe\x00\x80")
    with pytest.raises(SpecFileError, match=f"^{re.escape(str(path))}: .*utf-8"):
        read_spec(path)


@SUFFIXES
def test_an_absent_file_is_named(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"absent{suffix}"
    with pytest.raises(SpecFileError) as caught:
        read_spec(path)
    assert str(caught.value) == f"{path}: No such file or directory"


@SUFFIXES
def test_a_folder_is_no_spec_file(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"folder{suffix}"
    path.mkdir()
    with pytest.raises(SpecFileError, match=f"^{re.escape(str(path))}: Is a directory$"):
        read_spec(path)


@pytest.mark.parametrize("name", ["net", "net.yaml", "net.TOML", "net.toml.bak", "toml"])
def test_another_suffix_is_refused_before_anything_is_touched(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    expected = f"{path}: a spec file ends in .toml or .json"
    with pytest.raises(SpecFileError) as caught:
        read_spec(path)
    assert str(caught.value) == expected
    with pytest.raises(SpecFileError) as caught:
        write_spec(tiny(), path)
    assert str(caught.value) == expected
    assert list(tmp_path.iterdir()) == []


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=5,
)


@unhurried
@given(st.dictionaries(st.sampled_from(list(tiny().to_dict())) | st.text(), JSON_VALUES))
def test_any_json_table_is_a_spec_or_an_error_of_ours(changes: dict[str, Any]) -> None:
    try:
        spec = spec_from_json(json.dumps(MINIMAL | changes))
    except DensespecError:
        return
    assert DenseNetSpec.from_dict(spec.to_dict()) == spec


@settings(unhurried, max_examples=300)
@given(data=st.data())
def test_any_damage_to_a_toml_file_gives_a_spec_or_an_error_of_ours(data: st.DataObject) -> None:
    text = to_toml(tiny())
    at = data.draw(st.integers(0, len(text)))
    cut = data.draw(st.integers(0, 5))
    damaged = text[:at] + data.draw(st.text(max_size=3)) + text[at + cut :]
    try:
        spec = spec_from_toml(damaged)
    except DensespecError:
        return
    assert DenseNetSpec.from_dict(spec.to_dict()) == spec


@unhurried
@given(st.binary(max_size=50))
def test_any_bytes_in_a_file_are_an_error_that_names_it(content: bytes) -> None:
    with tempfile.TemporaryDirectory() as folder:
        for suffix in (".toml", ".json"):
            path = Path(folder, f"net{suffix}")
            path.write_bytes(content)
            with pytest.raises(SpecFileError, match=re.escape(str(path))):
                read_spec(path)


# The JSON Schema

VALIDATOR = jsonschema.Draft202012Validator(schema())

KEYS = ["$schema", "format", "extra", *tiny().to_dict()]

NUMBERS = ("compression", "batch_norm_epsilon", "batch_norm_momentum", "dropout_rate")

EDGES: list[object] = [
    *(-1, 0, 1, 2, 3, 4, 2**31 - 1, 2**31, 10**30),
    *(-0.5, 0.0, 0.5, 1.0, 1.5, 3.0),
    *(None, True, False, "", "1", "2k", "same", "symmetric", "biased", "unbiased"),
    *STEM_KINDS,
    *DROPOUT_PLACES,
    *([], [0], [1], [1, 2**31 - 1], [1, 2**31], [1.5], ["1"], [True], [None], [[1]], {}),
]
"""Values on both sides of every bound, and of every kind."""

SCALARS = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)  # JSON has no others
    | st.floats(0, 1)
    | st.text(max_size=5)
)

MUTANTS = SCALARS | st.lists(SCALARS, max_size=3) | st.dictionaries(st.text(), SCALARS, max_size=2)


def _is_float_for_an_integer(key: str, value: object) -> bool:
    """Whether a value is 2.0 or the like, in another field than a number.

    JSON Schema takes 2.0 for an integer, and a spec does not: a float there is a slip of whoever
    wrote the file, as in the other places where a spec is made. So the two may differ on it.
    """
    items = value if isinstance(value, list) else [value]
    integral = any(isinstance(item, float) and item.is_integer() for item in items)
    return integral and key not in NUMBERS


def _loads(record: dict[str, Any]) -> bool:
    """Whether a record is a spec, for all that constraints across fields say."""
    try:
        spec_from_json(json.dumps(record))
    except SpecError as error:
        return error.constraint in ("S22", "S23", "S26")
    except DensespecError:
        return False
    return True


@pytest.mark.parametrize("key", KEYS)
def test_the_schema_accepts_the_bounds_that_loading_accepts(key: str) -> None:
    base = {"format": 1} | tiny().to_dict()
    for value in EDGES:
        record = base | {key: value}
        if not _is_float_for_an_integer(key, value):
            assert VALIDATOR.is_valid(record) == _loads(record), value


@pytest.mark.parametrize("key", KEYS)
def test_the_schema_wants_the_fields_that_loading_wants(key: str) -> None:
    record = {"format": 1} | tiny().to_dict()
    record.pop(key, None)
    assert VALIDATOR.is_valid(record) == _loads(record) == (key not in MINIMAL)


@settings(unhurried, max_examples=40)
@pytest.mark.parametrize("key", KEYS)
@given(spec=specs(), value=MUTANTS)
def test_the_schema_accepts_what_loading_accepts(
    key: str, spec: DenseNetSpec, value: object
) -> None:
    record = {"format": 1} | spec.to_dict() | {key: value}
    assume(not _is_float_for_an_integer(key, value))
    assert VALIDATOR.is_valid(record) == _loads(record)


def test_the_schema_alone_takes_a_float_for_an_integer() -> None:
    record = MINIMAL | {"classes": 10.0}
    assert VALIDATOR.is_valid(record)
    assert not _loads(record)


@unhurried
@given(specs())
def test_the_schema_accepts_every_spec_written(spec: DenseNetSpec) -> None:
    VALIDATOR.validate(json.loads(to_json(spec)))


def test_the_schema_is_a_valid_schema_of_draft_2020_12() -> None:
    assert schema()["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    jsonschema.Draft202012Validator.check_schema(schema())


def test_the_published_schema_is_the_one_in_force() -> None:
    assert SCHEMA_FILE.read_text(encoding="utf-8") == json.dumps(schema(), indent=2) + "\n"


def test_the_schema_states_defaults_that_it_accepts() -> None:
    for name, entry in schema()["properties"].items():
        if "default" in entry:
            VALIDATOR.validate(MINIMAL | {name: entry["default"]})


def test_the_schema_is_made_anew_for_each_caller() -> None:
    before = copy.deepcopy(schema())
    schema()["properties"].clear()
    assert schema() == before


# Atomic writing


def _mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@pytest.fixture
def old(tmp_path: Path) -> Path:
    """A file that is there already."""
    path = tmp_path / "file.txt"
    path.write_text("old")
    return path


def test_a_file_appears_only_when_the_block_ends(tmp_path: Path) -> None:
    path = tmp_path / "file.txt"
    with atomic_path(path) as temporary:
        temporary.write_text("new")
        assert temporary.parent == tmp_path
        assert not path.exists()
    assert path.read_text() == "new"
    assert list(tmp_path.iterdir()) == [path]


def test_the_old_file_stays_until_the_block_ends(old: Path) -> None:
    with atomic_path(old) as temporary:
        temporary.write_text("new")
        assert old.read_text() == "old"
    assert old.read_text() == "new"


def _fail_halfway(path: Path, error: type[BaseException]) -> None:
    with atomic_path(path) as temporary:
        temporary.write_text("half")
        raise error


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_a_failure_leaves_the_old_file_and_nothing_else(
    old: Path, error: type[BaseException]
) -> None:
    with pytest.raises(error):
        _fail_halfway(old, error)
    assert old.read_text() == "old"
    assert list(old.parent.iterdir()) == [old]


def test_a_failure_leaves_no_new_file(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError):
        _fail_halfway(tmp_path / "file.txt", RuntimeError)
    assert list(tmp_path.iterdir()) == []


def test_a_block_that_removes_its_file_leaves_the_old_one(old: Path) -> None:
    with pytest.raises(FileNotFoundError), atomic_path(old) as temporary:
        temporary.unlink()
    assert old.read_text() == "old"


def test_two_writers_at_once_do_not_share_a_temporary_file(old: Path) -> None:
    with atomic_path(old) as one, atomic_path(old) as two:
        assert one != two
        one.write_text("one")
        two.write_text("two")
    assert old.read_text() == "one"
    assert list(old.parent.iterdir()) == [old]


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    with (
        pytest.raises(FileNotFoundError) as caught,
        atomic_path(tmp_path / "absent" / "file.txt"),
    ):
        pytest.fail("the block should not run")
    assert str(caught.value) == f"no folder {tmp_path / 'absent'} to write file.txt into"


@pytest.fixture
def locked() -> Iterator[Path]:
    """A folder that the process may not write into, even if it runs as root."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o555)
        user = os.geteuid()
        if user == 0:
            os.seteuid(65534)
        try:
            yield folder
        finally:
            os.seteuid(user)
            folder.chmod(0o755)


def test_a_locked_folder_is_named(locked: Path) -> None:
    with (
        pytest.raises(PermissionError, match=re.escape(str(locked))),
        atomic_path(locked / "file.txt"),
    ):
        pytest.fail("the block should not run")


def test_an_error_names_what_the_user_named(tmp_path: Path) -> None:
    path = tmp_path / "file.txt"
    with (
        pytest.raises(OSError, match=re.escape(f"{path}'")) as caught,
        atomic_path(path) as written,
    ):
        (written / "below").write_text("x")
    assert (caught.value.filename, ".tmp" in str(caught.value)) == (str(path), False)


def test_an_error_in_words_names_what_the_user_named(tmp_path: Path) -> None:
    path = tmp_path / "file.txt"
    with (
        pytest.raises(OSError, match=f"^can't make {re.escape(str(path))}$"),
        atomic_path(path) as temporary,
    ):
        raise OSError(f"can't make {temporary}")


@pytest.mark.parametrize("name", ["n" * 250 + ".txt", "\N{SNOWMAN}" * 80], ids=["long", "wide"])
def test_a_name_as_long_as_names_may_be_is_written(tmp_path: Path, name: str) -> None:
    with atomic_path(tmp_path / name) as temporary:
        temporary.write_text("new")
    assert [path.name for path in tmp_path.iterdir()] == [name]


# What was not finished


def _killed_while_it_writes(path: Path, writer: str) -> None:
    """A process that ends by SIGKILL within the block of a writer."""
    code = (
        "import os, signal, sys\n"
        "from densespec import atomic\n"
        f"with atomic.{writer}(sys.argv[1]) as temporary:\n"
        "    if temporary.is_dir(): (temporary / 'half').write_text('half')\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    ended = subprocess.run([sys.executable, "-c", code, str(path)], check=False)
    assert ended.returncode == -signal.SIGKILL


@pytest.mark.skipif(os.name != "posix", reason="kills are POSIX's")
@pytest.mark.parametrize("writer", ["atomic_path", "atomic_folder", "folder_beside"])
def test_what_a_killed_process_left_is_swept_at_the_next_write(tmp_path: Path, writer: str) -> None:
    _killed_while_it_writes(tmp_path / "net.safetensors", writer)
    assert len(list(tmp_path.iterdir())) == 1
    with atomic_path(tmp_path / "other.txt") as temporary:
        temporary.write_text("new")
    assert [path.name for path in tmp_path.iterdir()] == ["other.txt"]


def test_what_others_write_is_left_alone(tmp_path: Path) -> None:
    """Files of processes that run, of other machines, and whatever only looks alike."""
    outer = atomic_path(tmp_path / "a.txt")
    with outer as ours:
        place = UNFINISHED.fullmatch(ours.name)
        assert place
        kept = {
            ours.name,
            ".a.txt.densespec-00000000-999999999-0.tmp",
            f".a.txt.densespec-{place[1]}-{os.getppid()}-0.tmp",
            f"a.txt.densespec-{place[1]}-999999999-0.tmp",
            ".a.txt.tmp",
            ".a.txt.12345.tmp",
        }
        for name in kept:
            (tmp_path / name).touch()
        with atomic_path(tmp_path / "b.txt") as temporary:
            temporary.write_text("new")
        assert {path.name for path in tmp_path.iterdir()} == kept | {"b.txt"}


def test_a_folder_in_the_place_of_the_file_stays(tmp_path: Path) -> None:
    path = tmp_path / "file.txt"
    path.mkdir()
    with pytest.raises(IsADirectoryError), atomic_path(path) as temporary:
        temporary.write_text("new")
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    ("umask", "mode"),
    named("{0:03o} leaves {1:03o}", (0o022, 0o644), (0o027, 0o640), (0o077, 0o600)),
)
def test_a_new_file_has_the_permissions_that_the_umask_leaves(
    tmp_path: Path, umask: int, mode: int
) -> None:
    path = tmp_path / "file.txt"
    before = os.umask(umask)
    try:
        with atomic_path(path) as temporary:
            temporary.write_text("new")
        assert os.umask(umask) == umask
    finally:
        os.umask(before)
    assert _mode(path) == mode


@pytest.mark.parametrize("mode", [0o600, 0o664], ids=oct)
def test_a_file_that_is_replaced_keeps_its_permissions(old: Path, mode: int) -> None:
    old.chmod(mode)
    with atomic_path(old) as temporary:
        temporary.write_text("new")
    assert old.read_text() == "new"
    assert _mode(old) == mode


def test_a_link_stays_and_the_file_behind_it_is_replaced(old: Path, tmp_path: Path) -> None:
    folder = tmp_path / "links"
    folder.mkdir()
    link = folder / "link.txt"
    link.symlink_to(old)
    with atomic_path(link) as temporary:
        temporary.write_text("new")
    assert link.is_symlink()
    assert old.read_text() == "new"
    assert not old.is_symlink()
    assert list(folder.iterdir()) == [link]


def test_a_link_to_no_file_makes_the_file(tmp_path: Path) -> None:
    link = tmp_path / "link.txt"
    link.symlink_to(tmp_path / "file.txt")
    with atomic_path(link) as temporary:
        temporary.write_text("new")
    assert link.is_symlink()
    assert (tmp_path / "file.txt").read_text() == "new"


def test_a_spec_that_can_not_be_written_leaves_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "net.json"
    write_spec(tiny(classes=10), path)

    def full(*_: object, **__: object) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_text", full)
    with pytest.raises(OSError, match="No space left"):
        write_spec(tiny(classes=100), path)
    assert read_spec(path).classes == 10
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="the system has no such pipes")
def test_what_is_no_file_is_not_replaced_by_one(tmp_path: Path) -> None:
    folder, pipe, link = tmp_path / "folder", tmp_path / "pipe", tmp_path / "link"
    folder.mkdir()
    os.mkfifo(pipe)
    link.symlink_to(pipe)
    for path in (folder, pipe, link):
        with pytest.raises(OSError, match="is there, and no file") as error, atomic_path(path):
            raise AssertionError("nothing should be written")
        assert error.value.filename == str(path)
    assert pipe.is_fifo()
    assert sorted(tmp_path.iterdir()) == [folder, link, pipe]
