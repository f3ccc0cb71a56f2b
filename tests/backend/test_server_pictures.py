"""Further pictures on their way through a real gateway and a real worker process."""

from __future__ import annotations

import msgspec
import numpy as np
import pytest
from server_fixture import clean_backend

from protocol.errors import TurnaroundError
from protocol.messages import Direction, Result, Settings

PICTURE = np.full((16, 16, 4), 255, np.uint8)
EXTRAS = tuple(np.full((n, n, 4), n, np.uint8) for n in (20, 30))
SETTINGS = Settings(extra_pictures=(Direction(azimuth_deg=180.0), Direction(azimuth_deg=90.0, elevation_deg=10.0)))


def extras(client, request) -> list[str]:
    """What the worker says of the further pictures that came."""
    (result,) = [message for message, _ in client.follow(request) if isinstance(message, Result)]
    return [warning for warning in result.report.warnings if warning.startswith("extra")]


def test_they_arrive_are_used_again_and_replaced(tmp_path) -> None:
    with clean_backend(tmp_path) as backend, backend.client() as client:
        client.connect()
        first = client.submit("fake", SETTINGS, PICTURE, extra_pictures=EXTRAS)
        sent = ["extra [20, 20, 20, 20]", "extra [30, 30, 30, 30]"]
        assert extras(client, first) == sent
        job = client.followed[first].job

        again = client.submit("fake", msgspec.structs.replace(SETTINGS, seed=1), picture_of=job)
        assert extras(client, again) == sent
        swapped = client.submit("fake", SETTINGS, picture_of=job, extra_pictures=EXTRAS[::-1])
        assert extras(client, swapped) == sent[::-1]
        fewer = msgspec.structs.replace(SETTINGS, extra_pictures=SETTINGS.extra_pictures[:1])
        assert extras(client, client.submit("fake", fewer, picture_of=job)) == sent[:1]
        assert extras(client, client.submit("fake", Settings(), picture_of=job)) == []

        alone = client.submit("fake", Settings(), PICTURE)
        assert extras(client, alone) == []
        with pytest.raises(TurnaroundError) as caught:
            extras(client, client.submit("fake", SETTINGS, picture_of=client.followed[alone].job))
        assert (caught.value.code, caught.value.field) == ("picture.missing", "extra_0")
