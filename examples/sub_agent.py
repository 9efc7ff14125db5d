"""An agent asks another one, which works in a session of its own; who follows the first sees what the second does.

python examples/sub_agent.py                # with the demo model
python examples/sub_agent.py default        # with a real model: see examples/README.md

The warehouse is a tool of the desk. Should the program be killed in between, its next start goes on with both turns,
and the warehouse is not asked a second time.
"""

import json
import sys
import tempfile

import sessile
from sessile.client.events import event_type
from sessile.wire.events import AgentOutputEvent, StreamingAgentOutput, ToolActivity, ToolInputEvent, ToolOutputEvent

MODEL = sys.argv[1] if sys.argv[1:] else "demo"
WAREHOUSE = {
    "type": "sub_agent",
    "description": "Ask the warehouse about an order",
    "sub_agent_configuration": {"agent_key": "warehouse", "session_mode": "session_scoped"},
}


def find_order(order_number: str) -> dict:
    """Find out where in the warehouse an order is."""
    return {"order_number": order_number, "shelf": "C-7", "packed": True}


def main() -> None:
    """Ask the desk, which asks the warehouse; then look at the session that the desk has made there."""
    with tempfile.TemporaryDirectory() as folder, sessile.open(f"{folder}/shop.db", tools=[find_order]) as client:
        client.agents.create(
            key="warehouse", name="Warehouse", model=MODEL, tool_configurations={"find_order": {"type": "lambda"}}
        )
        client.agents.create(key="desk", name="Desk", model=MODEL, tool_configurations={"warehouse": WAREHOUSE})
        client.sessions.create("desk", key="anna")
        ask(client, "Please ask the warehouse where my order A-1042 is.")

        for session in client.sessions.list("warehouse"):
            print(f"\nA session of {session.created_by_agent_key}/{session.created_by_session_key} in the warehouse:")
            for event in client.events.list("warehouse", session.key):
                print(f"  {event.sequence:>2}  {event_type(event)}")


def ask(client: sessile.Client, question: str) -> None:
    """Show a turn while it happens: what the desk does, and what the warehouse does for it."""
    print(f"Anna:       {question}")
    answering = False
    with client.events.stream("desk", "anna", question) as turn:
        for frame in turn:
            match frame:
                case ToolInputEvent():
                    print(f"Desk:       {frame.tool_configuration_name}({json.dumps(frame.tool_input)})")
                case ToolActivity(agent_event=ToolInputEvent() as event):
                    print(f"Warehouse:  {event.tool_configuration_name}({json.dumps(event.tool_input)})")
                case ToolActivity(agent_event=ToolOutputEvent() as event):
                    print(f"Warehouse:  {json.dumps(event.tool_output)}")
                case ToolActivity(agent_event=AgentOutputEvent() as event):
                    print(f"Warehouse:  {event.content}")
                case StreamingAgentOutput():
                    print(frame.content if answering else f"Desk:       {frame.content}", end="", flush=True)
                    answering = True
    print(f"\n            [{turn.stop_reason}]")


if __name__ == "__main__":
    main()
