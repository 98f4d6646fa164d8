"""A version is let go after the last call that uses it, and not before."""

import threading

from forwardpass.server.loading.loaded import Leases

PATIENCE = 30.0


def test_a_closed_version_gives_no_lease_and_keeps_none() -> None:
    leases = Leases()
    leases.close()

    assert not leases.enter()
    # What was refused is not waited for.
    closing = threading.Thread(target=leases.close, daemon=True)
    closing.start()
    closing.join(PATIENCE)
    assert not closing.is_alive()


def test_closing_waits_for_the_last_lease() -> None:
    leases = Leases()
    assert leases.enter()
    assert leases.enter()
    closing = threading.Thread(target=leases.close, daemon=True)
    closing.start()
    while leases.enter():  # until closing has begun
        leases.leave()

    leases.leave()
    assert closing.is_alive()
    leases.leave()
    closing.join(PATIENCE)
    assert not closing.is_alive()
