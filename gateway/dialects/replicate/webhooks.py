"""What is posted to a `webhook`: the prediction; and the secret that it is signed with."""

from __future__ import annotations

from gateway.dialects.call import Call, json_reply
from gateway.dialects.dialect import Endpoint
from gateway.dialects.progress import Live
from gateway.dialects.replicate.answers import prediction_of
from gateway.dialects.replicate.catalogue import ROOT
from gateway.http import Reply
from gateway.render import dump
from gateway.webhooks.bodies import Delivery


def render(delivery: Delivery) -> bytes:
    """Return the prediction as it was then."""
    prediction = prediction_of(delivery.job, delivery.assets, delivery.public_url, Live())
    if delivery.event == "output" and prediction["status"] == "succeeded":
        # Its outputs are there before its end is told of.
        prediction["status"] = "processing"
    return dump(prediction)


async def secret(call: Call) -> Reply:
    """Answer the secret of the caller's webhooks."""
    return json_reply({"key": await call.jobs.webhook_secret()})


ENDPOINTS = (
    Endpoint("GET", f"{ROOT}/webhooks/default/secret", secret, note="One secret for all webhooks of an owner."),
)
