"""Promo2: the mailings that a store sends in rounds of months."""

from rossmann.compiled import kernel


@kernel
def promo2_phase(month: int, months_mask: int, day: int, since: float) -> int:
    """Months since the round's last sending month, -1 where Promo2 does not run on that day."""
    if months_mask == 0 or not day >= since:
        return -1
    for back in range(12):
        if (months_mask >> ((month - 1 - back) % 12)) & 1:
            return back
    return -1
