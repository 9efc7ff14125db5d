"""What if? A copy of a conversation up to some place, where it goes on in another way; the first one stays as it is.

python examples/what_if.py                # with the demo model
python examples/what_if.py default        # with a real model: see examples/README.md
"""

import sys
import tempfile
import textwrap

import sessile
from sessile.wire.events import AgentOutputEvent

MODEL = sys.argv[1] if sys.argv[1:] else "demo"


def main() -> None:
    """Plan a trip, then plan it again from the first answer on."""
    with tempfile.TemporaryDirectory() as folder, sessile.open(f"{folder}/trips.db") as client:
        client.agents.create(key="guide", name="Travel guide", model=MODEL)
        client.sessions.create("guide", key="bergen")
        first = client.events.send("guide", "bergen", "We have three days in Bergen. In one sentence: what is it like?")
        client.events.send("guide", "bergen", "The sun will shine. In one sentence: what shall we do?")

        # Everything up to and with the first answer is copied; the question about the sun is not.
        client.sessions.create(
            "guide",
            key="bergen-rain",
            from_session={"session_key": "bergen", "include_up_to_event_id": first.events[-1].id},
        )
        client.events.send("guide", "bergen-rain", "What if it rains? In one sentence: what shall we do?")

        show(client, "bergen")
        show(client, "bergen-rain")


def show(client: sessile.Client, session: str) -> None:
    """Print where a session comes from and what was said in it."""
    origin = client.sessions.get("guide", session).from_session
    print(f"\n== {session}" + (f", a copy of {origin.session_key} up to an event" if origin else ""))
    for event in client.events.list("guide", session, types=["input_message", "agent_output"]):
        who = "Agent" if isinstance(event, AgentOutputEvent) else "You"
        print(textwrap.fill(event.content, 100, initial_indent=f"{who + ':':<8}", subsequent_indent=" " * 8))


if __name__ == "__main__":
    main()
