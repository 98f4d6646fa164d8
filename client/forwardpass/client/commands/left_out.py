"""What an embedding leaves out, told at its end."""

import typer

from forwardpass.client.jobs.listing import Listing, as_text


def tell_left_out(listing: Listing) -> None:
    """Prints to standard error which inputs no row stands for."""
    if listing.left_out:
        first = listing.left_out[0]
        typer.echo(
            f"left out: {len(listing.left_out)}, such as {as_text(first.path)}: {first.reason}",
            err=True,
        )
    if listing.skipped:
        counts = ", ".join(
            f"{count} {suffix or 'without a suffix'}" for suffix, count in listing.skipped.items()
        )
        typer.echo(f"passed over for their suffix: {counts}", err=True)
    if listing.links:
        typer.echo(f"links not followed, or to what is listed already: {listing.links}", err=True)
