//! What holds for an order after any commands in any order.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::{Order, OrderCommand, OrderEvent, OrderRejection, OrderStatus};
use crate::domain::random_commands;

/// Few products at few prices, so that lines meet; now and then the end of the range.
fn command() -> impl Strategy<Value = OrderCommand> {
    let product = || "[abc]";
    let number = || prop_oneof![12 => 0..6_i64, 1 => -1..0_i64, 1 => Just(i64::MAX)];
    prop_oneof![
        2 => product().prop_map(|customer| OrderCommand::CreateOrder { customer }),
        12 => (product(), number(), number()).prop_map(|(product, quantity, unit_price_cents)| {
            OrderCommand::AddItem { product, quantity, unit_price_cents }
        }),
        4 => product().prop_map(|product| OrderCommand::RemoveItem { product }),
        4 => (product(), -1..102_i64)
            .prop_map(|(code, percent)| OrderCommand::ApplyCoupon { code, percent }),
        1 => Just(OrderCommand::Pay {}),
        1 => Just(OrderCommand::Ship {}),
        1 => Just(OrderCommand::Deliver {}),
        1 => product().prop_map(|reason| OrderCommand::Cancel { reason }),
    ]
}

/// Recomputes an order from its events in another way: amounts per product and price.
#[derive(Default)]
struct Recomputed {
    quantities: BTreeMap<(String, i64), i128>,
    percent: i128,
}

impl Recomputed {
    fn fold(&mut self, event: &OrderEvent) {
        match event {
            OrderEvent::ItemAdded {
                product,
                quantity,
                unit_price_cents,
            } => {
                let line = (product.clone(), *unit_price_cents);
                *self.quantities.entry(line).or_default() += i128::from(*quantity);
            }
            OrderEvent::ItemRemoved { product } => {
                self.quantities.retain(|(held, _), _| held != product);
            }
            OrderEvent::CouponApplied { percent, .. } => self.percent = i128::from(*percent),
            OrderEvent::OrderCreated { .. }
            | OrderEvent::OrderPaid { .. }
            | OrderEvent::OrderShipped {}
            | OrderEvent::OrderDelivered {}
            | OrderEvent::OrderCancelled { .. } => {}
        }
    }

    fn sum(&self) -> i128 {
        self.quantities
            .iter()
            .map(|((_, price), quantity)| i128::from(*price) * quantity)
            .sum()
    }

    /// In hundredths of a cent first, then rounded by looking at what is cut off.
    fn total(&self) -> i128 {
        let exact = self.sum() * (100 - self.percent);
        exact / 100 + i128::from(exact % 100 >= 50)
    }
}

/// The steps that an order may make.
fn is_step(before: OrderStatus, after: OrderStatus) -> bool {
    use OrderStatus::{Cancelled, Created, Delivered, InTransit, Paid};
    before == after
        || matches!(
            (before, after),
            (Created, Paid | Cancelled) | (Paid, InTransit | Cancelled) | (InTransit, Delivered)
        )
}

proptest! {
    #![proptest_config(random_commands::config())]

    #[test]
    fn the_total_is_what_the_lines_cost_after_the_coupon(
        commands in prop::collection::vec(command(), 0..60),
    ) {
        let mut recomputed = Recomputed::default();
        random_commands::run::<Order>(commands, |_, _, answer, after| {
            answer.iter().flatten().for_each(|event| recomputed.fold(event));
            assert_eq!(i128::from(after.total_cents), recomputed.total());
            assert!(recomputed.sum() <= i128::from(i64::MAX));
            let lines: BTreeMap<_, _> = after
                .lines
                .iter()
                .map(|l| ((l.product.clone(), l.unit_price_cents), i128::from(l.quantity)))
                .collect();
            assert_eq!(lines, recomputed.quantities);
            assert_eq!(after.lines.len(), lines.len(), "no two lines of one kind");
        });
    }

    #[test]
    fn an_order_moves_only_forward_and_changes_only_while_open(
        commands in prop::collection::vec(command(), 0..60),
    ) {
        random_commands::run::<Order>(commands, |before, _, _, after| {
            assert!(is_step(before.status, after.status), "{before:?} to {after:?}");
            if before.status != OrderStatus::Created {
                assert_eq!(after.lines, before.lines);
                assert_eq!(after.total_cents, before.total_cents);
            }
        });
    }

    #[test]
    fn an_amount_is_too_large_only_when_it_does_not_fit(
        commands in prop::collection::vec(command(), 0..60),
    ) {
        let mut recomputed = Recomputed::default();
        random_commands::run::<Order>(commands, |_, command, answer, _| {
            answer.iter().flatten().for_each(|event| recomputed.fold(event));
            if answer != &Err(OrderRejection::AmountTooLarge) {
                return;
            }
            let OrderCommand::AddItem { product, quantity, unit_price_cents } = command else {
                panic!("{command:?} adds no amount");
            };
            let added = i128::from(*quantity) * i128::from(*unit_price_cents);
            let line = (product.clone(), *unit_price_cents);
            let present = recomputed.quantities.get(&line).copied().unwrap_or(0);
            let largest = (recomputed.sum() + added).max(present + i128::from(*quantity));
            assert!(largest > i128::from(i64::MAX));
        });
    }
}
