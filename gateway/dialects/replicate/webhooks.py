"""What is posted to a `webhook`: the prediction."""

from __future__ import annotations

from gateway.dialects.progress import Live
from gateway.dialects.replicate.answers import prediction_of
from gateway.render import dump
from gateway.webhooks.bodies import RENDERERS, Delivery


def render(delivery: Delivery) -> bytes:
    """Return the prediction as it was then."""
    prediction = prediction_of(delivery.job, delivery.assets, delivery.public_url, Live())
    if delivery.event == "output" and prediction["status"] == "succeeded":
        # Its outputs are there before its end is told of.
        prediction["status"] = "processing"
    return dump(prediction)


RENDERERS["replicate"] = render
