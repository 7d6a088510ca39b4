"""A soak: a continuous stream of many senders, and one fault after the other, for as long as the user says.

`pytest scenarios --soak 10m --senders 50` runs it, and nothing else.
"""

from harness.scenario import scenario
from harness.steps import made
from harness.streaming import TEXT, streaming
from harness.system import System


@scenario(family="soak", controls=["once"], variants={"": {"senders": 10}}, transports=["websocket"], soak=True)
async def test_continuous_stream_is_stored_once_in_order_whatever_happens(system: System, senders: int) -> None:
    """A stream that goes on while one fault follows the other, drawn from all there are, is stored once, in order."""
    everyone = {sender.name: sender for sender in await system.crowd(senders)}
    async for part in system.parts(list(everyone.values())):
        async with streaming(list(everyone.values())) as turns:
            for step in part:
                sender = everyone[step.sender]
                async with turns(sender):
                    await sender.send_many(step.after)
                    await sender.send(TEXT)
                    async with system.inject(made(step, system, sender)) as fault:
                        message = sender.post(TEXT)
                        await fault.bitten(message)
                    await sender.finished(message)
