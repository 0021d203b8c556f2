//! Reading views in tests: whole lists, page by page, as new as a set of positions.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::Value;

use super::support::client::{self, Entry};
use super::support::http::{Http, Request};
use super::support::wait;

/// All rows of a view, which must have taken in these positions.
pub(crate) fn rows(http: &mut Http, view: &str, after: &[String]) -> Vec<Value> {
    let fresh = format!("after={}&wait=9s", after.join(","));
    let mut found = Vec::new();
    let mut cursor = String::new();
    loop {
        let target = format!("/v1/views/{view}?limit=100&{fresh}{cursor}");
        let page = wait::until("the view answers", Duration::from_secs(60), || {
            // The node may have been started a moment ago.
            let page = http.try_send(&Request::get(&target)).ok()?;
            match page.status {
                200 => Some(page.json()),
                503 | 504 => None,
                status => panic!("{target}: {status} {}", page.text()),
            }
        });
        found.extend(page["rows"].as_array().expect("rows").iter().cloned());
        match page["next_cursor"].as_str() {
            Some(next) => cursor = format!("&cursor={next}"),
            None => return found,
        }
    }
}

/// The histories of accounts, by id.
pub(crate) fn histories(http: &mut Http, accounts: &[String]) -> BTreeMap<String, Vec<Entry>> {
    let history = |id: &String| {
        let entries = wait::until("a history", Duration::from_secs(60), || {
            client::history(http, id).ok()
        });
        (id.clone(), entries)
    };
    accounts.iter().map(history).collect()
}

/// The last position in each shard that these histories know of.
pub(crate) fn ends(histories: &BTreeMap<String, Vec<Entry>>) -> Vec<String> {
    let mut ends: BTreeMap<&str, u64> = BTreeMap::new();
    for entry in histories.values().flatten() {
        let (shard, number) = entry.position.split_once(':').expect("shard:number");
        let number: u64 = number.parse().expect("a number");
        let end = ends.entry(shard).or_default();
        *end = number.max(*end);
    }
    ends.iter()
        .map(|(shard, number)| format!("{shard}:{number}"))
        .collect()
}

/// The views of accounts must be what folding the histories gives, exactly.
pub(crate) fn check_accounts(http: &mut Http, histories: &BTreeMap<String, Vec<Entry>>) -> i64 {
    let after = ends(histories);
    let mut total = 0;
    let rows_of_accounts = rows(http, "accounts", &after);
    assert_eq!(rows_of_accounts.len(), histories.len(), "one row each");
    for row in &rows_of_accounts {
        let id = row["id"].as_str().expect("an id");
        let entries = &histories[id];
        let balance: i64 = entries.iter().map(Entry::balance_change).sum();
        assert_eq!(row["balance_cents"], balance, "{id}");
        assert_eq!(row["sequence_number"], entries.len(), "{id}");
        assert_eq!(row["status"], "open", "{id}");
        total += balance;
    }
    let totals = rows(http, "account_totals", &after);
    let expected = serde_json::json!([{
        "currency": "EUR", "accounts": histories.len(), "balance_cents": total,
    }]);
    assert_eq!(Value::from(totals), expected);
    total
}
