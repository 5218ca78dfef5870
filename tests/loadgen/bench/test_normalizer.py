"""The benchmark itself works: a real normalizer process takes a small feed whole."""

from loadgen.bench.normalizer import Feed, measure, model_feed


def test_every_venue_message_goes_through() -> None:
    feed = model_feed(3000, 3)
    found = measure(feed)
    assert found.venue_messages == sum(map(len, feed.passes)) >= 3000
    assert found.published >= found.venue_messages * 0.9, "each message brings an increment, but for most tickers"
    assert 0 < found.frames < found.published
    assert found.rate > 0


def test_passes_are_processes_of_the_ingestor_that_replace_each_other() -> None:
    feed = model_feed(600, 2)
    frames = [*feed.opening, *feed.passes[0]]
    found = measure(Feed(feed.products, [], [frames, frames]))
    assert found.venue_messages == 2 * len(frames)
    assert found.published > len(frames), "the second pass opens the books again"
