//! What the views of an undamaged node say, each row and lists by filters and sorts, recorded once and
//! compared with what a damaged one says.
//!
//! A list is asked for with the last position of each shard, so there is one right answer; a node that
//! builds its read models again has some time to give it, and until then it gives none.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::support::http::{Http, Request, Response};
use crate::support::wait;

/// How long read models may take to be built again. Where a shard is damaged they are not as new as they
/// must be, and all of it passes.
const PATIENCE: Duration = Duration::from_secs(20);
/// How long those of a whole node may take.
const WHOLE_PATIENCE: Duration = Duration::from_secs(60);

/// Once through the key, through each index, and by each column without one.
const LISTS: [&str; 9] = [
    "accounts?limit=1000",
    "accounts?limit=1000&sort=owner",
    "accounts?limit=1000&sort=-balance_cents",
    "accounts?limit=1000&balance_cents[gte]=45",
    "accounts?limit=1000&currency=EUR&status=open",
    "accounts?limit=1000&sequence_number[gt]=9&sort=-sequence_number",
    "account_totals?currency=EUR",
    "account_totals?balance_cents[gt]=0&sort=-accounts",
    "orders?limit=1000",
];

/// What is right.
#[derive(Debug)]
pub(crate) struct Lists {
    /// The rows by what is asked.
    rows: BTreeMap<String, Value>,
}

impl Lists {
    /// Asks for everything, up to these positions.
    pub(crate) fn record<'a>(http: &mut Http, positions: impl Iterator<Item = &'a str>) -> Self {
        let mut last: BTreeMap<u64, u64> = BTreeMap::new();
        for position in positions {
            let (shard, number) = position.split_once(':').expect("a position");
            let number: u64 = number.parse().expect("a number");
            let known = last.entry(shard.parse().expect("a number")).or_insert(0);
            *known = number.max(*known);
        }
        let after: Vec<String> = last.iter().map(|(s, n)| format!("{s}:{n}")).collect();
        let after = after.join(",");
        let mut rows = BTreeMap::new();
        for list in LISTS {
            let target = format!("/v1/views/{list}{}", behind(list, &after));
            let page = wait::until("a list is as new as it must be", WHOLE_PATIENCE, || {
                let page = http.send(&Request::get(&target));
                (page.status == 200).then(|| page.json())
            });
            rows.insert(target, page["rows"].clone());
        }
        let all = format!("/v1/views/{}{}", LISTS[0], behind(LISTS[0], &after));
        let all = rows[&all].as_array().cloned();
        for row in all.expect("a list of all rows") {
            let key = format!("accounts/{}", row["id"].as_str().expect("a key"));
            let target = format!("/v1/views/{key}{}", behind(&key, &after));
            rows.insert(target, row);
        }
        Self { rows }
    }

    /// Whether anything was refused until the end; an error when anything was wrong.
    pub(crate) fn compare(&self, http: &mut Http) -> Result<bool, String> {
        let deadline = Instant::now() + PATIENCE;
        for (target, rows) in &self.rows {
            let request = Request::get(target);
            loop {
                let reply = http
                    .try_send(&request)
                    .map_err(|error| format!("no answer to {target}: {error}"))?;
                if reply.status == 200 && shown(target, &reply) == *rows {
                    break;
                }
                if !matches!(reply.status, 500 | 503 | 504) || reply.code().is_empty() {
                    let text: String = reply.text().chars().take(2000).collect();
                    return Err(format!(
                        "a wrong answer to {target}: {} {text}",
                        reply.status
                    ));
                }
                if Instant::now() > deadline {
                    return Ok(true);
                }
                wait::let_pass(Duration::from_millis(20));
            }
        }
        Ok(false)
    }
}

fn behind(target: &str, after: &str) -> String {
    let joint = if target.contains('?') { '&' } else { '?' };
    format!("{joint}after={after}&wait=2s")
}

/// The rows of a list, or the one row.
fn shown(target: &str, reply: &Response) -> Value {
    let mut body = reply.json();
    if !target.starts_with("/v1/views/accounts/") {
        return body["rows"].take();
    }
    if let Some(members) = body.as_object_mut() {
        members.remove("lag");
    }
    body
}
