"""A support agent that looks orders up, as you would see it on a screen: word by word, with its tool calls.

python examples/support_agent.py                # with the demo model
python examples/support_agent.py default        # with a real model: see examples/README.md

The agent and its tool are those of `make run`, in the folder `support`: a JSON document and a Python function.
"""

import json
import sys
import tempfile
from pathlib import Path

from support.shop.tools import lookup_order

import sessile
from sessile.client.events import event_type
from sessile.wire.events import StreamingAgentOutput, ToolInputEvent, ToolOutputEvent

MODEL = sys.argv[1] if sys.argv[1:] else "demo"
DOCUMENT = json.loads(Path(__file__).with_name("support").joinpath("agent.json").read_text())
QUESTIONS = ("Where is my order A-1042?", "And what about my order A-1043?")


def main() -> None:
    """Ask about two orders, then look at what the session has kept."""
    with tempfile.TemporaryDirectory() as folder, sessile.open(f"{folder}/shop.db", tools=[lookup_order]) as client:
        agent = client.agents.create(**{**DOCUMENT, "model": MODEL}).key
        session = client.sessions.create(agent, name="Anna's order").key
        for question in QUESTIONS:
            ask(client, agent, session, question)

        usage = client.sessions.get(agent, session).usage
        print(f"\n{usage.input_tokens} tokens read and {usage.output_tokens} written. The log of the session:")
        for event in client.events.list(agent, session):
            print(f"  {event.sequence:>2}  {event_type(event)}")


def ask(client: sessile.Client, agent: str, session: str, question: str) -> None:
    """Show a turn while it happens. Every tool call and its output is in the log before it is shown here."""
    print(f"\nYou:    {question}")
    answering = False
    with client.events.stream(agent, session, question) as turn:
        for frame in turn:
            match frame:
                case ToolInputEvent():
                    print(f"  tool  {frame.tool_configuration_name}({json.dumps(frame.tool_input)})")
                case ToolOutputEvent():
                    print(f"  gives {json.dumps(frame.tool_output)}")
                case StreamingAgentOutput():
                    print("" if answering else "Agent:  ", end="")
                    print(frame.content, end="", flush=True)
                    answering = True
    print(f"\n        [{turn.stop_reason}]")


if __name__ == "__main__":
    main()
