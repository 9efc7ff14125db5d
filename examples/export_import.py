"""Take a conversation elsewhere: one file with everything, a hash to check it by, and it goes on in another place.

python examples/export_import.py                # with the demo model
python examples/export_import.py default        # with a real model: see examples/README.md
"""

import hashlib
import json
import sys
import tempfile
from pathlib import Path

import sessile

MODEL = sys.argv[1] if sys.argv[1:] else "demo"


def main() -> None:
    """Export a session from one database and import it into another, as between two servers."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "first.jsonl")
        with sessile.open(f"{folder}/here.db") as here:
            here.agents.create(key="helper", name="Helper", model=MODEL)
            here.sessions.create("helper", key="first", name="First talk")
            here.events.send("helper", "first", "Please remember the number 42.")
            file.write_bytes(here.sessions.export("helper", "first"))
        check(file)

        with sessile.open(f"{folder}/there.db") as there:
            there.agents.create(key="helper", name="Helper", model=MODEL)
            refuse(there, file.read_bytes().replace(b"42", b"43"))
            session = there.sessions.import_("helper", file.read_bytes())
            print(f"Imported: {session.key!r}, with the events and ids that it had. It goes on:\n")
            answer = there.events.send("helper", "first", "Which number was it?")
            print(f"You:    Which number was it?\nAgent:  {answer.text}\n        [{answer.stop_reason}]\n")
            found = there.sessions.check("helper", "first")
            print(f"The log has {found.events} events now, and breaks {len(found.violations)} rules.")


def check(file: Path) -> None:
    """Read the file as anybody can: a JSON object on each line, and at the end a hash of the lines before."""
    *lines, end = file.read_bytes().splitlines(keepends=True)
    print(f"Exported: {len(lines) + 1} lines")
    for line in lines:
        kind = json.loads(line)
        print(f"  {kind['kind']:<8}", kind.get("event", {}).get("type", ""))
    right = hashlib.sha256(b"".join(lines)).hexdigest() == json.loads(end)["sha256"]
    print(f"The hash at its end is {'right' if right else 'WRONG'}.")


def refuse(client: sessile.Client, data: bytes) -> None:
    """A file that somebody has changed is not taken."""
    try:
        client.sessions.import_("helper", data)
    except sessile.InvalidRequest as error:
        print(f"Changed on the way, it is refused: {error}")


if __name__ == "__main__":
    main()
