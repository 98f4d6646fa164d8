"""An admission that keeps each token within its own bounds, beside the server's."""

from collections.abc import Callable

from forwardpass.server.errors import CallError
from forwardpass.server.scheduling.accounts import Account
from forwardpass.server.scheduling.admission import Admission
from forwardpass.server.scheduling.places import Guest


class TokenAdmission(Admission):
    """Counts what calls hold for the account of their token, too.

    Every call that runs a model has one here, and a place in it since its headers came. A class of
    its own, so that servers without tokens have no work of it.
    """

    def enter(self, call: Guest, size: int) -> None:
        """See `Admission.enter`."""
        account = _account_of(call)
        account.take(size, size)
        try:
            super().enter(call, size)
        except CallError:
            account.give_back(size)
            raise

    def leave(self, call: Guest, size: int) -> None:
        """See `Admission.leave`."""
        super().leave(call, size)
        _account_of(call).give_back(size)

    def enter_from_stream(self, call: Guest, size: int) -> None:
        """See `Admission.enter_from_stream`."""
        super().enter_from_stream(call, size)
        _account_of(call).enter_from_stream(size)

    def leave_from_stream(self, call: Guest, size: int) -> None:
        """See `Admission.leave_from_stream`."""
        super().leave_from_stream(call, size)
        _account_of(call).leave_from_stream(size)

    def may_read(self, stream: Guest) -> bool:
        """See `Admission.may_read`."""
        return _account_of(stream).has_room() and super().may_read(stream)

    def wait(self, stream: Guest, again: Callable[[], None]) -> None:
        """See `Admission.wait`."""
        if not _account_of(stream).wait(stream, again):
            super().wait(stream, again)

    def hold(self, call: Guest, size: int) -> None:
        """See `Admission.hold`."""
        account = _account_of(call)
        account.take(size, call.size + size)
        try:
            super().hold(call, size)
        except CallError:
            account.give_back(size)
            raise


def _account_of(call: Guest) -> Account:
    account = call.account
    assert isinstance(account, Account)
    return account
