//! What one client sends next.
//!
//! It owns the client's copies of the request templates and its random choices. It refuses to look
//! at replies: what is sent depends on the seed alone.

use std::sync::Arc;

use super::choice::Random;
use super::plan::{Plan, WeightedCommand};
use super::route::{Directory, Finder};
use super::template::Template;

/// What is being timed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// A command.
    Command,
    /// A read.
    Read,
}

/// One client's source of requests.
#[derive(Debug)]
pub(super) struct Workload {
    plan: Arc<Plan>,
    directory: Option<Arc<Directory>>,
    finder: Finder,
    random: Random,
    /// One for each target.
    requests: Vec<Requests>,
    /// Retry keys count up; clients differ in the upper digits.
    counter: u64,
}

/// The requests to one target, which differ from those to others in their `Host`.
#[derive(Debug)]
struct Requests {
    commands: Vec<WeightedCommand>,
    read: Template,
}

/// What to send, and to which of the targets.
#[derive(Debug)]
pub(super) struct Next<'a> {
    pub(super) kind: Kind,
    pub(super) target: usize,
    pub(super) bytes: &'a [u8],
}

/// Retry keys of one client: enough for years at any rate.
const KEYS_PER_CLIENT: u64 = 100_000_000_000;

impl Workload {
    /// The requests of the client with this number.
    pub(super) fn new(plan: Arc<Plan>, directory: Option<Arc<Directory>>, client: usize) -> Self {
        let finder = Finder::new(&plan.args, client);
        let client = client as u64;
        let random = Random::new(plan.args.seed, client);
        let of_target = |target| Requests {
            commands: plan.commands(target),
            read: plan.read(target),
        };
        let requests = plan.targets.iter().map(of_target).collect();
        Self {
            plan,
            directory,
            finder,
            random,
            requests,
            counter: client * KEYS_PER_CLIENT,
        }
    }

    /// The next request; `None` when there is no target, which no plan lets happen.
    pub(super) fn next(&mut self) -> Option<Next<'_>> {
        let random = &mut self.random;
        let number = self.plan.choice.next(random);
        let target = self.finder.place(self.directory.as_deref(), number, random);
        let requests = self.requests.get_mut(target)?;
        if random.chance(self.plan.args.reads) || requests.commands.is_empty() {
            return Some(Next {
                kind: Kind::Read,
                target,
                bytes: requests.read.patch(number, 0, 0),
            });
        }
        self.counter += 1;
        let first_share = requests.commands.first().map_or(1.0, |first| first.share);
        let place = usize::from(!random.chance(first_share));
        let chosen = requests.commands.get_mut(place)?;
        let (smallest, largest) = chosen.amounts;
        let amount = smallest + random.below(largest - smallest + 1);
        Some(Next {
            kind: Kind::Command,
            target,
            bytes: chosen.template.patch(number, amount, self.counter),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::args::Args;
    use clap::Parser;

    fn requests(extra: &[&str], client: usize) -> Vec<String> {
        let args = ["bench", "http://127.0.0.1:1", "--aggregates", "50"]
            .iter()
            .chain(extra);
        let plan = Arc::new(Plan::new(Args::try_parse_from(args).unwrap()).unwrap());
        let mut workload = Workload::new(plan, None, client);
        (0..4_000)
            .map(|_| String::from_utf8(workload.next().unwrap().bytes.to_vec()).unwrap())
            .collect()
    }

    #[test]
    fn an_order_gets_more_of_one_product_and_never_another_line() {
        let all = requests(&["--type", "order", "--event-bytes", "100"], 0);
        for text in &all {
            let (head, body) = text.split_once("\r\n\r\n").unwrap();
            assert!(head.contains("/order/bench-") && head.contains("/commands/AddItem "));
            let body: serde_json::Value = serde_json::from_str(body).unwrap();
            assert_eq!(body["product"], "x".repeat(94));
            assert_eq!(body["unit_price_cents"], 100);
        }
    }

    #[test]
    fn a_seed_repeats_and_clients_differ() {
        assert_eq!(requests(&[], 0), requests(&[], 0));
        assert_ne!(requests(&[], 0), requests(&[], 1));
        assert_ne!(requests(&[], 0), requests(&["--seed", "2"], 0));
    }

    #[test]
    fn shares_are_kept() {
        let all = requests(&["--reads", "0.5", "--withdrawals", "0.2"], 3);
        let share = |part: &str| {
            all.iter().filter(|text| text.contains(part)).count() as f64 / all.len() as f64
        };
        assert!((share("GET ") - 0.5).abs() < 0.05);
        assert!((share("/Withdraw ") - 0.1).abs() < 0.03);
        assert!((share("/Deposit ") - 0.4).abs() < 0.05);
    }

    #[test]
    fn retry_keys_never_repeat() {
        let mut keys: Vec<String> = (0..2)
            .flat_map(|client| requests(&["--keys", "client"], client))
            .map(|text| text.split_once("Idempotency-Key: ").unwrap().1[15..31].to_owned())
            .collect();
        let all = keys.len();
        keys.sort_unstable();
        keys.dedup();
        assert_eq!(keys.len(), all);
    }
}
