//! A customer's order: filled, paid, shipped, delivered, or cancelled before it is shipped.
//!
//! ```text
//! created --Pay--> paid --Ship--> in_transit --Deliver--> delivered
//!    |               |
//!    +---- Cancel ---+--> cancelled
//! ```
//!
//! This file owns the rules of one order. It refuses to know stock, prices or payments: the client
//! names the price, and `Pay` records that the money came. Its invariant: `total_cents` is what the
//! lines cost after the coupon, and neither it nor the sum before the coupon exceeds 64 bits.
//!
//! Decisions where the rules leave a choice:
//! - A line is a product at a price. Adding the same product at the same price raises the line's
//!   quantity; at another price it makes another line, so that nobody's price changes afterwards.
//! - Removing a product removes all of its lines.
//! - One coupon at a time: a second one takes the place of the first, and the same one again needs
//!   no event.
//! - The total after the coupon is rounded half-up to the cent.
//! - A paid order can be cancelled; paying back is somebody else's business.

use phalanx_actors::{Aggregate, Context, Justification};

mod total;
mod types;

#[cfg(test)]
mod properties;
#[cfg(test)]
mod tests;

pub use types::{
    Coupon, OrderCommand, OrderEvent, OrderLine, OrderRejection, OrderState, OrderStatus,
};

/// A customer's order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Order;

impl Aggregate for Order {
    const TYPE: &'static str = "order";
    const DESCRIPTION: &'static str =
        "A customer's order: filled, paid, shipped, delivered, or cancelled before shipping.";

    type State = OrderState;
    type Command = OrderCommand;
    type Event = OrderEvent;
    type Rejection = OrderRejection;

    fn decide(
        state: &OrderState,
        command: OrderCommand,
        context: &Context<'_>,
    ) -> Result<Vec<OrderEvent>, OrderRejection> {
        match (context.sequence_number, command) {
            (0, OrderCommand::CreateOrder { customer }) => {
                Ok(vec![OrderEvent::OrderCreated { customer }])
            }
            (_, OrderCommand::CreateOrder { .. }) => Err(OrderRejection::OrderAlreadyExists),
            (0, _) => Err(OrderRejection::OrderNotFound),
            (_, command) => Ok(decide_existing(state, command)?.into_iter().collect()),
        }
    }

    fn evolve(state: &mut OrderState, event: &OrderEvent) {
        match event {
            OrderEvent::OrderCreated { customer } => customer.clone_into(&mut state.customer),
            OrderEvent::ItemAdded {
                product,
                quantity,
                unit_price_cents,
            } => add_line(state, product, *quantity, *unit_price_cents),
            OrderEvent::ItemRemoved { product } => {
                state.lines.retain(|line| line.product != *product);
            }
            OrderEvent::CouponApplied { code, percent } => {
                state.coupon = Some(Coupon {
                    code: code.clone(),
                    percent: *percent,
                });
            }
            OrderEvent::OrderPaid { .. } => state.status = OrderStatus::Paid,
            OrderEvent::OrderShipped {} => state.status = OrderStatus::InTransit,
            OrderEvent::OrderDelivered {} => state.status = OrderStatus::Delivered,
            OrderEvent::OrderCancelled { .. } => state.status = OrderStatus::Cancelled,
        }
        state.total_cents = total::after_coupon(&state.lines, state.coupon.as_ref());
    }

    fn justifications() -> Vec<Justification> {
        vec![
            Justification {
                name: "checkout",
                description: "The customer is about to pay and must see what will be charged.",
                rate_limit_per_second: 1_000,
            },
            Justification {
                name: "packing-station",
                description: "A packer makes sure that the order was not cancelled a moment ago.",
                rate_limit_per_second: 100,
            },
            super::OPERATOR,
        ]
    }

    fn views() -> Vec<&'static str> {
        vec!["orders"]
    }
}

/// Decides for an order that exists. `None`: it is already as the client wants it.
fn decide_existing(
    state: &OrderState,
    command: OrderCommand,
) -> Result<Option<OrderEvent>, OrderRejection> {
    match command {
        OrderCommand::CreateOrder { .. } => Err(OrderRejection::OrderAlreadyExists),
        OrderCommand::AddItem {
            product,
            quantity,
            unit_price_cents,
        } => {
            check_open(state)?;
            check_addition(state, &product, quantity, unit_price_cents)?;
            Ok(Some(OrderEvent::ItemAdded {
                product,
                quantity,
                unit_price_cents,
            }))
        }
        OrderCommand::RemoveItem { product } => {
            check_open(state)?;
            if state.lines.iter().any(|line| line.product == product) {
                Ok(Some(OrderEvent::ItemRemoved { product }))
            } else {
                Err(OrderRejection::ItemNotFound)
            }
        }
        OrderCommand::ApplyCoupon { code, percent } => {
            check_open(state)?;
            apply_coupon(state, code, percent)
        }
        OrderCommand::Pay {} => {
            check_open(state)?;
            if state.lines.is_empty() {
                return Err(OrderRejection::OrderEmpty);
            }
            Ok(Some(OrderEvent::OrderPaid {
                total_cents: state.total_cents,
            }))
        }
        OrderCommand::Ship {} => ship(state.status).map(Some),
        OrderCommand::Deliver {} => deliver(state.status).map(Some),
        OrderCommand::Cancel { reason } => cancel(state.status, reason).map(Some),
    }
}

/// Only an order that is not yet paid may change.
fn check_open(state: &OrderState) -> Result<(), OrderRejection> {
    if state.status == OrderStatus::Created {
        Ok(())
    } else {
        Err(OrderRejection::OrderNotOpen)
    }
}

/// An item may be added when its numbers make sense and every sum still fits into 64 bits.
fn check_addition(
    state: &OrderState,
    product: &str,
    quantity: i64,
    unit_price_cents: i64,
) -> Result<(), OrderRejection> {
    if quantity <= 0 {
        return Err(OrderRejection::QuantityNotPositive);
    }
    if unit_price_cents < 0 {
        return Err(OrderRejection::PriceNegative);
    }
    let present = state
        .lines
        .iter()
        .find(|line| line.holds(product, unit_price_cents));
    let new_quantity = present
        .map_or(0, |line| line.quantity)
        .checked_add(quantity);
    let new_sum = quantity
        .checked_mul(unit_price_cents)
        .and_then(|added| total::before_coupon(&state.lines)?.checked_add(added));
    match (new_quantity, new_sum) {
        (Some(_), Some(_)) => Ok(()),
        _ => Err(OrderRejection::AmountTooLarge),
    }
}

fn apply_coupon(
    state: &OrderState,
    code: String,
    percent: i64,
) -> Result<Option<OrderEvent>, OrderRejection> {
    let percent = u8::try_from(percent)
        .ok()
        .filter(|percent| *percent <= 100)
        .ok_or(OrderRejection::CouponInvalid)?;
    let applied = state
        .coupon
        .as_ref()
        .is_some_and(|coupon| coupon.code == code && coupon.percent == percent);
    Ok((!applied).then_some(OrderEvent::CouponApplied { code, percent }))
}

fn ship(status: OrderStatus) -> Result<OrderEvent, OrderRejection> {
    match status {
        OrderStatus::Paid => Ok(OrderEvent::OrderShipped {}),
        OrderStatus::Created => Err(OrderRejection::NotPaid),
        OrderStatus::InTransit | OrderStatus::Delivered => Err(OrderRejection::AlreadyShipped),
        OrderStatus::Cancelled => Err(OrderRejection::OrderNotOpen),
    }
}

fn deliver(status: OrderStatus) -> Result<OrderEvent, OrderRejection> {
    match status {
        OrderStatus::InTransit => Ok(OrderEvent::OrderDelivered {}),
        OrderStatus::Created => Err(OrderRejection::NotPaid),
        OrderStatus::Paid => Err(OrderRejection::NotShipped),
        OrderStatus::Delivered => Err(OrderRejection::AlreadyDelivered),
        OrderStatus::Cancelled => Err(OrderRejection::OrderNotOpen),
    }
}

fn cancel(status: OrderStatus, reason: String) -> Result<OrderEvent, OrderRejection> {
    match status {
        OrderStatus::Created | OrderStatus::Paid => Ok(OrderEvent::OrderCancelled { reason }),
        OrderStatus::InTransit | OrderStatus::Delivered => Err(OrderRejection::TooLateToCancel),
        OrderStatus::Cancelled => Err(OrderRejection::OrderNotOpen),
    }
}

/// Raises the quantity of the line with this product and price, or appends such a line.
fn add_line(state: &mut OrderState, product: &str, quantity: i64, unit_price_cents: i64) {
    let present = state
        .lines
        .iter_mut()
        .find(|line| line.holds(product, unit_price_cents));
    match present {
        // `decide` lets no quantity through that saturates; a hypothetical history may.
        Some(line) => line.quantity = line.quantity.saturating_add(quantity),
        None => state.lines.push(OrderLine {
            product: product.to_owned(),
            quantity,
            unit_price_cents,
        }),
    }
}
