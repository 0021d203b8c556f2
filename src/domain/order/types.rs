//! The words of an order: its state, commands, events and rejections.
//!
//! This file owns shapes, not rules. The invariant: names are part of the HTTP contract, and the
//! stored bytes of events and state change only together with their schema versions.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// What an order remembers.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct OrderState {
    /// Who ordered.
    pub customer: String,
    /// What was ordered, in the order in which it was first added.
    pub lines: Vec<OrderLine>,
    /// How far the order has come.
    pub status: OrderStatus,
    /// What the lines cost after the coupon, in cents.
    pub total_cents: i64,
    /// The coupon that reduces the total, if any.
    pub coupon: Option<Coupon>,
}

/// A product at a price.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct OrderLine {
    /// The product.
    pub product: String,
    /// How many of it, above 0.
    pub quantity: i64,
    /// What one of it costs, in cents, never negative.
    pub unit_price_cents: i64,
}

impl OrderLine {
    /// Whether this is the line of that product at that price.
    pub(super) fn holds(&self, product: &str, unit_price_cents: i64) -> bool {
        self.product == product && self.unit_price_cents == unit_price_cents
    }
}

/// A reduction of the total.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Coupon {
    /// What the customer typed.
    pub code: String,
    /// How much it takes off, in percent, 0 to 100.
    pub percent: u8,
}

/// How far an order has come.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum OrderStatus {
    /// Being filled.
    #[default]
    Created,
    /// Paid, not yet shipped.
    Paid,
    /// On its way.
    InTransit,
    /// With the customer.
    Delivered,
    /// Given up before it was shipped.
    Cancelled,
}

/// What a client may ask of an order.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub enum OrderCommand {
    /// Begins an order without lines.
    CreateOrder {
        /// Who orders.
        customer: String,
    },
    /// Adds some of a product.
    AddItem {
        /// The product.
        product: String,
        /// How many, above 0.
        quantity: i64,
        /// What one costs, in cents, 0 or more.
        unit_price_cents: i64,
    },
    /// Takes a product out of the order, whatever its quantity.
    RemoveItem {
        /// The product.
        product: String,
    },
    /// Reduces the total; takes the place of an earlier coupon.
    ApplyCoupon {
        /// What the customer typed.
        code: String,
        /// How much it takes off, in percent, 0 to 100.
        percent: i64,
    },
    /// Records that the total was paid.
    Pay {},
    /// Hands the order to the carrier.
    Ship {},
    /// Records that the customer has the order.
    Deliver {},
    /// Gives the order up, before it is shipped.
    Cancel {
        /// Why, in the client's words.
        reason: String,
    },
}

/// What happened to an order.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum OrderEvent {
    /// The order was begun.
    OrderCreated {
        /// Who orders.
        customer: String,
    },
    /// Some of a product was added.
    ItemAdded {
        /// The product.
        product: String,
        /// How many were added.
        quantity: i64,
        /// What one costs, in cents.
        unit_price_cents: i64,
    },
    /// A product was taken out.
    ItemRemoved {
        /// The product.
        product: String,
    },
    /// A coupon took effect.
    CouponApplied {
        /// What the customer typed.
        code: String,
        /// How much it takes off, in percent, 0 to 100.
        percent: u8,
    },
    /// The order was paid.
    OrderPaid {
        /// What was paid, in cents: the total of that moment.
        total_cents: i64,
    },
    /// The order left the house.
    OrderShipped {},
    /// The customer has the order.
    OrderDelivered {},
    /// The order was given up.
    OrderCancelled {
        /// Why, in the client's words.
        reason: String,
    },
}

/// Why an order refuses a command.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema, thiserror::Error)]
#[serde(rename_all = "kebab-case")]
pub enum OrderRejection {
    /// Nobody has created it.
    #[error("the order does not exist")]
    OrderNotFound,
    /// It was created before.
    #[error("the order exists already")]
    OrderAlreadyExists,
    /// It is past the stage in which it may change, or cancelled.
    #[error("the order is no longer open")]
    OrderNotOpen,
    /// It has no lines.
    #[error("the order has no items")]
    OrderEmpty,
    /// It must be paid first.
    #[error("the order is not paid")]
    NotPaid,
    /// It must be shipped first.
    #[error("the order is not shipped")]
    NotShipped,
    /// It has left the house.
    #[error("the order has been shipped already")]
    AlreadyShipped,
    /// The customer has it.
    #[error("the order has been delivered already")]
    AlreadyDelivered,
    /// It has left the house and cannot be given up.
    #[error("the order has been shipped and cannot be cancelled")]
    TooLateToCancel,
    /// No line holds the product.
    #[error("the order does not contain this product")]
    ItemNotFound,
    /// A quantity is zero or negative.
    #[error("a quantity must be above zero")]
    QuantityNotPositive,
    /// A price is negative.
    #[error("a price must not be negative")]
    PriceNegative,
    /// A coupon's percent is not 0 to 100.
    #[error("a coupon takes off 0 to 100 percent")]
    CouponInvalid,
    /// A quantity or the sum of the lines would not fit into 64 bits.
    #[error(
        "the amount is too large: a quantity or the sum would exceed {}",
        i64::MAX
    )]
    AmountTooLarge,
}
