"""Bad frames from the venue: counted by reason, and nothing else is disturbed ("Shown by" 6)."""

from pathlib import Path

from lfmesh.types import Role
from loadgen.client.checker import Checker
from loadgen.sim import BAD_FRAMES
from tests.aio import run
from tests.integration.clients import assert_clean, assert_holds_truth, client, products_of, quiet, started
from tests.integration.mesh import LiveMesh, mesh_up, wait_for


async def _rejected(mesh: LiveMesh) -> dict[str, float]:
    """Frames that the normalizers refused or ignored, by reason."""
    return {
        name: value
        for name, value in (await mesh.metrics(Role.NORMALIZER)).items()
        if name.startswith(("lfmesh_normalizer_bad_frames_total{", "lfmesh_normalizer_ignored_total{"))
    }


def test_every_kind_of_bad_frame_is_counted_and_disturbs_nothing(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with mesh_up(tmp_path, "--rate", "1000", "--products", "6") as mesh:
            checker = Checker()
            async with client(mesh, checker) as session:
                await started(session, checker)
                before = await _rejected(mesh)
                product = (await products_of(mesh))[0]
                for kind in BAD_FRAMES:
                    answer = await mesh.sim(f"control/inject?product={product}&kind={kind}")
                    assert answer["sent_to"] == 1
                    seen = checker.increments
                    await session.until(lambda seen=seen: checker.increments > seen, 10)  # type: ignore[misc]

                async def counted() -> bool:
                    now = await _rejected(mesh)
                    return sum(now.values()) - sum(before.values()) >= len(BAD_FRAMES)

                await wait_for(counted, 10, f"{len(BAD_FRAMES)} rejected frames in the normalizers' metrics")
                reasons = {name for name, value in (await _rejected(mesh)).items() if value > before.get(name, 0)}
                assert len(reasons) >= 5, reasons
                await mesh.sim("control/pause")
                await quiet([(session, checker)])
                assert_clean([checker])
                assert_holds_truth(checker, await mesh.truth())
                assert [status for status in checker.statuses if status.state == "stale"] == []

    run(scenario(), 100)
