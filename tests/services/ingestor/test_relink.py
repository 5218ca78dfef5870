"""A link to a normalizer that swallows what is pushed: the normalizer says so, and it is made anew."""

import msgspec

from lfmesh.messages import Rejected, RelinkRequest, Reply
from lfmesh.transport import Requester, Transport
from tests.aio import eventually, run
from tests.services.ingestor.ends import Normalizer, Venue, ask, config, ingestor, update
from tests.transport.proxy import proxied


def test_a_normalizer_that_hears_nothing_gets_a_new_link() -> None:
    async def main() -> None:
        async with Venue() as venue, ingestor(config(venue.url, ("BTC-USD",))) as running:
            with Transport() as transport:
                normalizer = Normalizer(transport, 0)
                record = normalizer.record()
                async with proxied(record.endpoints["raw"]) as proxy:
                    proxied_record = msgspec.structs.replace(record, endpoints={"raw": proxy.endpoint})
                    running.service.on_peers([proxied_record])
                    await running.ready()
                    await eventually(lambda: normalizer.beacons)
                    proxy.swallow()
                    await venue.say(update("BTC-USD", 1))
                    heard = len(normalizer.beacons)
                    requester = Requester(transport, running.service.endpoints()["requests"])
                    assert await ask(requester, RelinkRequest("normalizer-9")) == (
                        Rejected("normalizer-9 is not known here"),
                        [],
                    )
                    assert len(normalizer.beacons) <= heard + 1, "nothing arrives"
                    accepted = proxy.accepted
                    proxy.heal()
                    assert await ask(requester, RelinkRequest(normalizer.instance)) == (Reply(), [])
                    await eventually(lambda: proxy.accepted > accepted)
                    # What is pushed before the new link stands is left to replay.
                    heard = len(normalizer.beacons)
                    await eventually(lambda: len(normalizer.beacons) > heard + 1)
                    await venue.say(update("BTC-USD", 2))
                    await eventually(lambda: 2 in normalizer.updates())
                    assert running.service.statistics().links_rebuilt_total == 1

    run(main())
