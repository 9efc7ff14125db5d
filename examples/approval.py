"""A person approves what an agent wants to do, and nothing runs while they think: not the agent, not even this program.

python examples/approval.py                # with the demo model
python examples/approval.py default        # with a real model: see examples/README.md

`refund` is a client tool: the agent calls it, and whoever talks to the session answers the call. Until then the turn is
only rows in the database.
"""

import sys
import tempfile

import sessile

MODEL = sys.argv[1] if sys.argv[1:] else "demo"
REFUND = {
    "type": "client",
    "tool_id": "tol_refund",
    "description": "Refund an order. A person approves or declines it.",
    "input_schema": {
        "type": "object",
        "properties": {"order_number": {"type": "string"}},
        "required": ["order_number"],
    },
}


def main() -> None:
    """Ask for a refund, end the program's work with the question open, come back, and let a person decide."""
    with tempfile.TemporaryDirectory() as folder:
        with sessile.open(f"{folder}/desk.db") as client:
            client.agents.create(key="desk", name="Desk", model=MODEL, tool_configurations={"refund": REFUND})
            client.sessions.create("desk", key="anna")
            print("Anna:   Please refund my order A-1042.")
            turn = client.events.send("desk", "anna", "Please refund my order A-1042.")
            print(f"        [{turn.stop_reason}]")
        print("\nThe database is closed. It could be days until somebody opens it again.\n")
        with sessile.open(f"{folder}/desk.db") as client:
            decide(client)
            for event in client.events.list("desk", "anna", types=["agent_output"]):
                print(f"\nAgent:  {event.content}")
            print(f"        [{client.sessions.get('desk', 'anna').stop_reason}]")


def decide(client: sessile.Client) -> None:
    """Put every call that waits before a person, and tell the agent what they said. The last answer goes on."""
    while calls := client.sessions.outstanding_client_tool_calls("desk", "anna"):
        call = calls[0]
        if approved(f"The agent wants {call.tool_configuration_name} {call.arguments}. Approve? [y/n] "):
            client.events.send_tool_outputs("desk", "anna", {call.event_id: {"refunded": True, "approved_by": "Ben"}})
        else:
            errors = {call.event_id: "Ben has declined this refund."}
            client.events.send_tool_outputs("desk", "anna", {}, errors=errors)


def approved(question: str) -> bool:
    """Ask at the keyboard; where there is none, nobody approves."""
    try:
        return input(question).strip().lower() in ("y", "yes")
    except EOFError:
        print("(nobody is there)")
        return False


if __name__ == "__main__":
    main()
