"""Tools of the sample agent: plain Python functions. Their type hints and docstrings are what the model is told."""

from typing import Annotated

from msgspec import Meta

_ORDERS = {
    "A-1042": {"status": "shipped", "carrier": "Parcel Post", "expected": "tomorrow"},
    "A-1043": {"status": "being packed", "carrier": None, "expected": "in three days"},
}


def lookup_order(order_number: Annotated[str, Meta(description="The order number, such as A-1042")]) -> dict:
    """Look up an order of the shop by its number: its status, carrier and expected arrival."""
    order = _ORDERS.get(order_number.upper())
    if order is None:
        raise LookupError(f"There is no order {order_number}.")
    return {"order_number": order_number.upper(), **order}
