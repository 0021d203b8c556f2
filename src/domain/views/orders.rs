//! `orders`: every order with its total.
//!
//! What an order costs depends on all of its lines and its coupon. They lie hidden in the row and are
//! folded by the order's own rules, so that the view and the aggregate cannot come to two totals.

use phalanx_actors::Aggregate as _;
use phalanx_actors::projection::{
    EventMeta, Handled, HandlerError, Projection, Row, Rows, Subscriptions, Table,
};
use phalanx_actors::variant::variant_name;

use super::sequence;
use crate::domain::{Order, OrderEvent, OrderState};

/// Every order.
#[derive(Debug)]
pub struct Orders;

const TABLE: &str = "orders";
/// The state of the order as JSON.
const STATE: &str = "state";

impl Projection for Orders {
    const NAME: &'static str = "orders";
    const VERSION: u32 = 2;
    const DESCRIPTION: &'static str = "Every order: its customer, its status, its total.";

    fn tables() -> Vec<Table> {
        vec![
            Table::new(TABLE, "id")
                .text("id")
                .text("customer")
                .text("status")
                .integer("lines")
                .integer("total_cents")
                .text("coupon")
                .nullable()
                .integer("sequence_number")
                .text(STATE)
                .hidden()
                .index(["customer"])
                .index(["status"]),
        ]
    }

    fn subscriptions() -> Subscriptions {
        Subscriptions::default().on::<Order>(handle)
    }
}

fn handle(event: &OrderEvent, meta: &EventMeta<'_>, rows: &mut Rows<'_>) -> Handled {
    let id = meta.aggregate_id;
    let mut state = match rows.get(TABLE, id)? {
        Some(row) => serde_json::from_str(row.text(STATE)?).map_err(refused)?,
        None => OrderState::default(),
    };
    Order::evolve(&mut state, event);
    let json = serde_json::to_string(&state).map_err(refused)?;
    let lines = i64::try_from(state.lines.len()).unwrap_or(i64::MAX);
    let row = Row::default()
        .with("id", id)
        .with("customer", state.customer)
        .with("status", variant_name(&state.status).unwrap_or_default())
        .with("lines", lines)
        .with("total_cents", state.total_cents)
        .with("coupon", state.coupon.map(|coupon| coupon.code))
        .with("sequence_number", sequence(meta))
        .with(STATE, json);
    rows.put(TABLE, row)
}

fn refused(error: serde_json::Error) -> HandlerError {
    HandlerError::refused(error.to_string())
}
