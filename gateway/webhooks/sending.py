"""Wires the sender: channels with the gateway's own identity, which it exchanges its key file for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import grpc

from gateway.webhooks.bodies import Renderer
from gateway.webhooks.sender import Sender, SenderLimits
from service_kit import channels
from service_kit.clock import Clock
from service_kit.keyring import Keyrings
from service_kit.outgoing import Outgoing
from service_kit.settings import Settings


@dataclass(frozen=True, slots=True)
class Sending:
    """The sender and what it is connected with: channels with the gateway's own identity, and one to get that."""

    sender: Sender
    router: grpc.aio.Channel
    assets: grpc.aio.Channel
    identity: grpc.aio.Channel

    async def close(self) -> None:
        """Stop sending."""
        await self.sender.stop()
        for channel in (self.router, self.assets, self.identity):
            await channel.close()


def open_sending(
    settings: Settings,
    outgoing: Outgoing,
    clock: Clock,
    renderers: Mapping[str, Renderer],
    near: channels.Near = channels.NOBODY_NEAR,
) -> Sending:
    """Wire the sender of a gateway; it has not started."""
    gateway, rings = settings.gateway, Keyrings(settings.keys_dir)
    identity = channels.connect(gateway.router_target, near=near)
    tokens = channels.key_tokens(identity, lambda: rings.read_key_file("gateway.key"), clock)
    router, assets = (
        channels.connect(target, tokens=tokens, near=near) for target in (gateway.router_target, gateway.asset_target)
    )
    limits = SenderLimits(settings.outgoing.webhooks, settings.outgoing.webhook_timeout)
    sender = Sender(router, assets, outgoing, clock, settings.core.public_url, limits, renderers)
    return Sending(sender, router, assets, identity)
