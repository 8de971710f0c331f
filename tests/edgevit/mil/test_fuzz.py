"""Random damage: a package opens cleanly or is refused with ContractError, in little memory, and nothing else."""

from __future__ import annotations

import math
import random
from pathlib import Path

import pytest

from edgevit.errors import ContractError, UsageError
from edgevit.mil.lint import lint
from edgevit.mil.package import open_package, walk
from tests.edgevit.mil.packages import PROGRAM, WEIGHTS, small

MANIFEST = Path("Manifest.json")
pytestmark = pytest.mark.usefixtures("little_memory")


def _read_everything(folder: Path) -> bool:
    """Open, lint and decode; True if nothing was refused."""
    refusal = None
    try:
        package = open_package(folder)
        findings = lint(package)
        for function in package.functions.values():
            for block in function.block_specializations.values():
                for operation in walk(block):
                    for value in operation.attributes.values():
                        package.constant(value)
    except (ContractError, UsageError) as error:
        refusal = error
    if refusal is None:
        assert all(finding.message.isprintable() and finding.where.isprintable() for finding in findings)
        return True
    assert refusal.fix
    assert str(folder) in refusal.message
    return False


def _damage(content: bytes, random_: random.Random) -> bytes:
    """Flip, overwrite, cut, repeat or insert bytes."""
    data = bytearray(content)
    place = random_.randrange(len(data))
    match random_.randrange(6):
        case 0:
            data[place] ^= 1 << random_.randrange(8)
        case 1:
            for _ in range(random_.randint(1, 20)):
                data[random_.randrange(len(data))] = random_.randrange(256)
        case 2:
            del data[place:]
        case 3:
            data[place:place] = random_.randbytes(random_.randint(1, 12))
        case 4:
            data[place : place + 8] = b"\xff" * 8
        case 5:
            del data[place : place + random_.randint(1, 30)]
    return bytes(data)


@pytest.mark.parametrize("part", [MANIFEST, PROGRAM, WEIGHTS], ids=str)
@pytest.mark.parametrize("seed", range(4))
def test_damaged_bytes_are_refused_or_read(tmp_path, part, seed):
    folder = small().write(tmp_path / "m.mlpackage")
    whole = (folder / part).read_bytes()
    random_ = random.Random(f"{part} {seed}")
    for _ in range(50):
        (folder / part).write_bytes(_damage(whole, random_))
        _read_everything(folder)


def _messages(message, found):
    """All messages inside a message, itself included."""
    found.append(message)
    for field, value in message.ListFields():
        if field.message_type is None:
            continue
        if field.message_type.GetOptions().map_entry:
            inner = value.values() if field.message_type.fields_by_name["value"].message_type else ()
        else:
            inner = value if not hasattr(value, "ListFields") else (value,)
        for item in inner:
            _messages(item, found)
    return found


def _distort(message, random_: random.Random) -> None:
    """Give one field of a message another value that its type allows."""
    fields = [field for field, value in message.ListFields() if not hasattr(value, "items")]
    if not fields:
        return
    field = random_.choice(fields)
    value = getattr(message, field.name)
    if not hasattr(value, "append") and not hasattr(value, "add"):
        if field.message_type is not None or random_.random() < 0.2:
            message.ClearField(field.name)
        else:
            setattr(message, field.name, _other(value, random_))
    elif random_.random() < 0.5:
        value.extend(list(value) * random_.randint(1, 40))
    else:
        del value[random_.randrange(len(value)) :]


def _other(value, random_: random.Random):
    if isinstance(value, bool):
        return not value
    if isinstance(value, int):
        return random_.choice([0, 1, 3, 11, 35, value + 1, (1 << 31) - 1])
    if isinstance(value, float):
        return random_.choice([math.nan, math.inf, -1e38, 0.0])
    if isinstance(value, bytes):
        return random_.randbytes(random_.randint(0, 9))
    return random_.choice(["", "x", value + "0", "image", "logits", "kernel", "../" * 9, "\x1b[2J", "y" * 100_000])


@pytest.mark.parametrize("seed", range(4))
def test_well_formed_nonsense_is_refused_or_read(tmp_path, seed):
    folder = small().write(tmp_path / "m.mlpackage")
    whole = (folder / PROGRAM).read_bytes()
    random_ = random.Random(seed)
    refused = 0
    for _ in range(60):
        spec = small().spec
        spec.ParseFromString(whole)
        for _ in range(random_.randint(1, 3)):
            _distort(random_.choice(_messages(spec, [])), random_)
        (folder / PROGRAM).write_bytes(spec.SerializeToString())
        refused += not _read_everything(folder)
    assert 0 < refused < 60  # neither all noise nor all harmless
