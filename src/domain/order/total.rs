//! What an order costs.
//!
//! This file owns the arithmetic and refuses to round anywhere but once, at the end. Its invariant:
//! no function here overflows or panics, whatever the lines say.

use super::types::{Coupon, OrderLine};

/// The sum of all lines in cents; `None` when it does not fit into 64 bits.
pub(super) fn before_coupon(lines: &[OrderLine]) -> Option<i64> {
    lines.iter().try_fold(0_i64, |sum, line| {
        sum.checked_add(line.quantity.checked_mul(line.unit_price_cents)?)
    })
}

/// The sum less the coupon in cents, rounded half-up. A sum of more than 64 bits, which `decide`
/// never lets happen, counts as the largest sum.
pub(super) fn after_coupon(lines: &[OrderLine], coupon: Option<&Coupon>) -> i64 {
    let sum = i128::from(before_coupon(lines).unwrap_or(i64::MAX));
    let percent_to_pay = 100 - coupon.map_or(0, |coupon| i128::from(coupon.percent.min(100)));
    let total = (sum * percent_to_pay + 50).div_euclid(100);
    i64::try_from(total).unwrap_or(i64::MAX)
}
