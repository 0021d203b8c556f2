//! What an order does and refuses, one sentence each, and how it looks to a client.

use phalanx_actors::Aggregate;
use phalanx_actors::testkit::{Given, given};
use serde_json::json;

use super::OrderCommand::*;
use super::OrderEvent::*;
use super::{Order, OrderCommand, OrderEvent, OrderRejection, OrderStatus};

fn text(words: &str) -> String {
    words.to_owned()
}

fn created() -> OrderEvent {
    OrderCreated {
        customer: text("ada"),
    }
}

fn added(product: &str, quantity: i64, unit_price_cents: i64) -> OrderEvent {
    ItemAdded {
        product: text(product),
        quantity,
        unit_price_cents,
    }
}

fn add(product: &str, quantity: i64, unit_price_cents: i64) -> OrderCommand {
    AddItem {
        product: text(product),
        quantity,
        unit_price_cents,
    }
}

fn remove(product: &str) -> OrderCommand {
    RemoveItem {
        product: text(product),
    }
}

fn coupon(code: &str, percent: i64) -> OrderCommand {
    ApplyCoupon {
        code: text(code),
        percent,
    }
}

fn coupon_applied(code: &str, percent: u8) -> OrderEvent {
    CouponApplied {
        code: text(code),
        percent,
    }
}

fn cancel() -> OrderCommand {
    Cancel {
        reason: text("changed my mind"),
    }
}

fn cancelled() -> OrderEvent {
    OrderCancelled {
        reason: text("changed my mind"),
    }
}

fn nothing() -> Given<Order> {
    given([])
}

/// Two apples at 50 cents.
fn filled() -> Given<Order> {
    given([created(), added("apple", 2, 50)])
}

fn in_status(status: OrderStatus) -> Given<Order> {
    let paid = OrderPaid { total_cents: 100 };
    let mut history = vec![created(), added("apple", 2, 50)];
    history.extend(match status {
        OrderStatus::Created => vec![],
        OrderStatus::Paid => vec![paid],
        OrderStatus::InTransit => vec![paid, OrderShipped {}],
        OrderStatus::Delivered => vec![paid, OrderShipped {}, OrderDelivered {}],
        OrderStatus::Cancelled => vec![cancelled()],
    });
    let order = given(history);
    assert_eq!(Given::<Order>::state(&order).status, status);
    order
}

/// Every command but `CreateOrder`, with fields that make sense for [`filled`].
fn commands_for_an_order() -> [OrderCommand; 7] {
    [
        add("apple", 1, 50),
        remove("apple"),
        coupon("TEN", 10),
        Pay {},
        Ship {},
        Deliver {},
        cancel(),
    ]
}

#[test]
fn an_order_is_created_empty() {
    let after = nothing()
        .when(CreateOrder {
            customer: text("ada"),
        })
        .then([created()]);
    assert_eq!(
        serde_json::to_value(after.state()).unwrap(),
        json!({
            "customer": "ada",
            "lines": [],
            "status": "created",
            "total_cents": 0,
            "coupon": null,
        })
    );
}

#[test]
fn an_order_is_created_once() {
    for status in [OrderStatus::Created, OrderStatus::Cancelled] {
        in_status(status)
            .when(CreateOrder {
                customer: text("bob"),
            })
            .then_rejected(OrderRejection::OrderAlreadyExists);
    }
}

#[test]
fn an_order_that_nobody_created_takes_no_other_command() {
    for command in commands_for_an_order() {
        nothing()
            .when(command)
            .then_rejected(OrderRejection::OrderNotFound);
    }
}

#[test]
fn an_item_adds_its_price_to_the_total() {
    let after = filled()
        .when(add("pear", 3, 70))
        .then([added("pear", 3, 70)]);
    assert_eq!(
        serde_json::to_value(after.state()).unwrap(),
        json!({
            "customer": "ada",
            "lines": [
                {"product": "apple", "quantity": 2, "unit_price_cents": 50},
                {"product": "pear", "quantity": 3, "unit_price_cents": 70},
            ],
            "status": "created",
            "total_cents": 310,
            "coupon": null,
        })
    );
}

#[test]
fn the_same_product_at_the_same_price_is_one_line() {
    let after = filled()
        .when(add("apple", 3, 50))
        .then([added("apple", 3, 50)]);
    assert_eq!(after.state().lines.len(), 1);
    assert_eq!(after.state().lines[0].quantity, 5);
    assert_eq!(after.state().total_cents, 250);
}

#[test]
fn the_same_product_at_another_price_is_another_line() {
    let after = filled()
        .when(add("apple", 1, 60))
        .then([added("apple", 1, 60)]);
    assert_eq!(after.state().lines.len(), 2);
    assert_eq!(after.state().total_cents, 160);
    let after = after.when(remove("apple")).then([ItemRemoved {
        product: text("apple"),
    }]);
    assert!(after.state().lines.is_empty());
    assert_eq!(after.state().total_cents, 0);
}

#[test]
fn an_item_may_be_free_but_not_cost_less_than_nothing() {
    filled()
        .when(add("leaflet", 1, 0))
        .then([added("leaflet", 1, 0)]);
    filled()
        .when(add("leaflet", 1, -1))
        .then_rejected(OrderRejection::PriceNegative);
}

#[test]
fn a_quantity_of_zero_or_less_is_refused() {
    for quantity in [0, -1, i64::MIN] {
        filled()
            .when(add("apple", quantity, 50))
            .then_rejected(OrderRejection::QuantityNotPositive);
    }
}

#[test]
fn sums_and_quantities_that_do_not_fit_are_refused() {
    for command in [
        add("gold", 2, i64::MAX),
        add("gold", i64::MAX, 2),
        add("gold", 1, i64::MAX),
    ] {
        filled()
            .when(command)
            .then_rejected(OrderRejection::AmountTooLarge);
    }
    given::<Order>([created(), added("leaflet", i64::MAX, 0)])
        .when(add("leaflet", 1, 0))
        .then_rejected(OrderRejection::AmountTooLarge);
    let most = i64::MAX - 100;
    let after = filled()
        .when(add("gold", 1, most))
        .then([added("gold", 1, most)]);
    assert_eq!(after.state().total_cents, i64::MAX);
}

#[test]
fn a_removed_item_no_longer_counts() {
    let after = filled().when(remove("apple")).then([ItemRemoved {
        product: text("apple"),
    }]);
    assert_eq!(after.state().total_cents, 0);
    after
        .when(remove("apple"))
        .then_rejected(OrderRejection::ItemNotFound);
}

#[test]
fn a_coupon_reduces_the_total_also_of_items_added_later() {
    let after = filled()
        .when(coupon("TEN", 10))
        .then([coupon_applied("TEN", 10)]);
    assert_eq!(after.state().total_cents, 90);
    let after = after
        .when(add("pear", 1, 100))
        .then([added("pear", 1, 100)]);
    assert_eq!(after.state().total_cents, 180);
    assert_eq!(
        serde_json::to_value(&after.state().coupon).unwrap(),
        json!({"code": "TEN", "percent": 10})
    );
}

#[test]
fn the_total_after_a_coupon_is_rounded_half_up() {
    for (price, percent, total_cents) in [
        (1, 50, 1),
        (3, 50, 2),
        (149, 99, 1),
        (150, 99, 2),
        (999, 33, 669),
        (999, 0, 999),
        (999, 100, 0),
        (i64::MAX, 0, i64::MAX),
    ] {
        let after = given::<Order>([created(), added("thing", 1, price)])
            .when(coupon("X", percent.into()))
            .then([coupon_applied("X", percent)]);
        assert_eq!(after.state().total_cents, total_cents, "{price} {percent}");
    }
}

#[test]
fn a_second_coupon_takes_the_place_of_the_first() {
    let after = given::<Order>([created(), added("apple", 2, 50), coupon_applied("TEN", 10)])
        .when(coupon("HALF", 50))
        .then([coupon_applied("HALF", 50)]);
    assert_eq!(after.state().total_cents, 50);
}

#[test]
fn the_same_coupon_again_changes_nothing() {
    given::<Order>([created(), coupon_applied("TEN", 10)])
        .when(coupon("TEN", 10))
        .then([]);
}

#[test]
fn a_coupon_outside_0_to_100_percent_is_refused() {
    for percent in [-1, 101, 256, i64::MIN, i64::MAX] {
        filled()
            .when(coupon("X", percent))
            .then_rejected(OrderRejection::CouponInvalid);
    }
}

#[test]
fn a_payment_records_the_total() {
    let after = given::<Order>([created(), added("apple", 2, 50), coupon_applied("TEN", 10)])
        .when(Pay {})
        .then([OrderPaid { total_cents: 90 }]);
    assert_eq!(after.state().status, OrderStatus::Paid);
    assert_eq!(after.state().total_cents, 90);
}

#[test]
fn an_order_without_items_is_not_paid() {
    given::<Order>([created()])
        .when(Pay {})
        .then_rejected(OrderRejection::OrderEmpty);
    given::<Order>([
        created(),
        added("apple", 2, 50),
        ItemRemoved {
            product: text("apple"),
        },
    ])
    .when(Pay {})
    .then_rejected(OrderRejection::OrderEmpty);
}

#[test]
fn only_an_open_order_changes_or_is_paid() {
    for status in [
        OrderStatus::Paid,
        OrderStatus::InTransit,
        OrderStatus::Delivered,
        OrderStatus::Cancelled,
    ] {
        for command in [
            add("apple", 1, 50),
            add("apple", 0, 50),
            remove("apple"),
            remove("pear"),
            coupon("TEN", 10),
            Pay {},
        ] {
            in_status(status)
                .when(command)
                .then_rejected(OrderRejection::OrderNotOpen);
        }
    }
}

#[test]
fn an_order_is_shipped_once_and_only_when_paid() {
    let after = in_status(OrderStatus::Paid)
        .when(Ship {})
        .then([OrderShipped {}]);
    assert_eq!(after.state().status, OrderStatus::InTransit);
    for (status, rejection) in [
        (OrderStatus::Created, OrderRejection::NotPaid),
        (OrderStatus::InTransit, OrderRejection::AlreadyShipped),
        (OrderStatus::Delivered, OrderRejection::AlreadyShipped),
        (OrderStatus::Cancelled, OrderRejection::OrderNotOpen),
    ] {
        in_status(status).when(Ship {}).then_rejected(rejection);
    }
}

#[test]
fn an_order_is_delivered_once_and_only_when_shipped() {
    let after = in_status(OrderStatus::InTransit)
        .when(Deliver {})
        .then([OrderDelivered {}]);
    assert_eq!(after.state().status, OrderStatus::Delivered);
    for (status, rejection) in [
        (OrderStatus::Created, OrderRejection::NotPaid),
        (OrderStatus::Paid, OrderRejection::NotShipped),
        (OrderStatus::Delivered, OrderRejection::AlreadyDelivered),
        (OrderStatus::Cancelled, OrderRejection::OrderNotOpen),
    ] {
        in_status(status).when(Deliver {}).then_rejected(rejection);
    }
}

#[test]
fn an_order_is_cancelled_until_it_is_shipped() {
    for status in [OrderStatus::Created, OrderStatus::Paid] {
        let after = in_status(status).when(cancel()).then([cancelled()]);
        assert_eq!(after.state().status, OrderStatus::Cancelled);
        assert_eq!(
            after.state().total_cents,
            100,
            "what was ordered stays visible"
        );
    }
    for (status, rejection) in [
        (OrderStatus::InTransit, OrderRejection::TooLateToCancel),
        (OrderStatus::Delivered, OrderRejection::TooLateToCancel),
        (OrderStatus::Cancelled, OrderRejection::OrderNotOpen),
    ] {
        in_status(status).when(cancel()).then_rejected(rejection);
    }
}

#[test]
fn a_client_sees_the_statuses_of_the_contract() {
    assert_eq!(
        serde_json::to_value([
            OrderStatus::Created,
            OrderStatus::Paid,
            OrderStatus::InTransit,
            OrderStatus::Delivered,
            OrderStatus::Cancelled,
        ])
        .unwrap(),
        json!(["created", "paid", "in_transit", "delivered", "cancelled"])
    );
}

#[test]
fn a_client_sees_the_rejections_of_the_contract() {
    assert_eq!(
        serde_json::to_value([
            OrderRejection::OrderNotFound,
            OrderRejection::OrderAlreadyExists,
            OrderRejection::OrderNotOpen,
            OrderRejection::OrderEmpty,
            OrderRejection::NotPaid,
            OrderRejection::TooLateToCancel,
            OrderRejection::ItemNotFound,
            OrderRejection::QuantityNotPositive,
        ])
        .unwrap(),
        json!([
            "order-not-found",
            "order-already-exists",
            "order-not-open",
            "order-empty",
            "not-paid",
            "too-late-to-cancel",
            "item-not-found",
            "quantity-not-positive",
        ])
    );
}

#[test]
fn commands_are_read_as_the_contract_writes_them() {
    let create = CreateOrder {
        customer: text("ada"),
    };
    for (json, command) in [
        (json!({"CreateOrder": {"customer": "ada"}}), create),
        (
            json!({"AddItem": {"product": "apple", "quantity": 2, "unit_price_cents": 50}}),
            add("apple", 2, 50),
        ),
        (json!({"RemoveItem": {"product": "apple"}}), remove("apple")),
        (
            json!({"ApplyCoupon": {"code": "TEN", "percent": 10}}),
            coupon("TEN", 10),
        ),
        (json!({"Pay": {}}), Pay {}),
        (json!({"Ship": {}}), Ship {}),
        (json!({"Deliver": {}}), Deliver {}),
        (json!({"Cancel": {"reason": "changed my mind"}}), cancel()),
    ] {
        assert_eq!(
            serde_json::from_value::<OrderCommand>(json).unwrap(),
            command
        );
    }
}

#[test]
fn malformed_commands_are_not_read() {
    for json in [
        json!({"CreateOrder": {}}),
        json!({"Pay": {"amount": 1}}),
        json!({"Cancel": {}}),
        json!({"ApplyCoupon": {"code": "TEN", "percent": 10.5}}),
        json!({"AddItem": {"product": "apple", "quantity": "2", "unit_price_cents": 50}}),
    ] {
        let read = serde_json::from_value::<OrderCommand>(json.clone());
        assert!(read.is_err(), "{json} was read as {read:?}");
    }
}

#[test]
fn clients_are_told_why_and_where_they_may_read() {
    assert_eq!(Order::views(), ["orders"]);
    let names: Vec<_> = Order::justifications().iter().map(|j| j.name).collect();
    assert_eq!(names, ["checkout", "packing-station", "operator"]);
}
