//! A run that makes sense: arguments checked once, before anything is sent.
//!
//! It refuses contradictions and whatever could not be sent as is (control characters in an id).
//! Behind it no part of the generator looks for mistakes in the arguments again.

use std::hash::{BuildHasher, Hasher, RandomState};
use std::time::Duration;

use super::args::{Args, KeyMode, Mode};
use super::builtin::{self, Builtin};
use super::choice::Choice;
use super::run::BenchError;
use super::target::Target;
use super::template::{Shape, Template};

/// Upper bounds of what one process can sensibly drive.
const MAX_CLIENTS: usize = 20_000;
const MAX_AGGREGATES: u64 = 50_000_000;
const MAX_URLS: usize = 100;

/// A checked run.
#[derive(Debug)]
pub(super) struct Plan {
    /// The arguments as given.
    pub(super) args: Args,
    /// Where to: one for each URL.
    pub(super) targets: Vec<Target>,
    /// Which aggregate next.
    pub(super) choice: Choice,
    /// What retry keys begin with; differs between runs.
    key_prefix: Option<String>,
    /// What is known of the type; `None` when the arguments describe the requests.
    builtin: Option<Builtin>,
}

/// A command and how often it is chosen.
#[derive(Debug, Clone)]
pub(super) struct WeightedCommand {
    /// The request.
    pub(super) template: Template,
    /// The share of the commands, 0 to 1; the shares of a workload add up to 1.
    pub(super) share: f64,
    /// The smallest and largest amount.
    pub(super) amounts: (u64, u64),
}

impl Plan {
    /// Checks the arguments and resolves the URL.
    pub(super) fn new(args: Args) -> Result<Self, BenchError> {
        check(&args)?;
        let targets = args.urls.iter().map(|url| Target::parse(url));
        let targets = targets.collect::<Result<_, _>>()?;
        let builtin = builtin_of(&args)?;
        let aggregates = u32::try_from(args.aggregates).map_err(|_| too_many_aggregates())?;
        let choice = Choice::new(args.distribution, aggregates, args.exponent);
        let key_prefix = (args.keys == KeyMode::Client).then(|| {
            format!(
                "bench-{:08x}-",
                RandomState::new().build_hasher().finish() >> 32
            )
        });
        Ok(Self {
            args,
            targets,
            choice,
            key_prefix,
            builtin,
        })
    }

    /// The schedule's rate, when there is one.
    pub(super) fn rate_per_second(&self) -> Option<f64> {
        if self.args.mode == Mode::Open {
            self.args.rate
        } else {
            None
        }
    }

    /// From the first request to the last one's begin.
    pub(super) fn run_time(&self) -> Duration {
        self.args.warmup + self.args.duration
    }

    /// The commands of the measured part, for one of the targets.
    pub(super) fn commands(&self, target: &Target) -> Vec<WeightedCommand> {
        let shape = self.shape(target);
        match (&self.args.command, self.builtin) {
            (Some(command), _) => vec![WeightedCommand {
                template: Template::command(shape, command, &self.args.body),
                share: 1.0,
                amounts: (100, 999),
            }],
            (None, Some(builtin)) => builtin.commands(shape),
            (None, None) => Vec::new(),
        }
    }

    /// The read of the measured part, for one of the targets.
    pub(super) fn read(&self, target: &Target) -> Template {
        let shape = self.shape(target);
        match &self.args.view {
            Some(view) => Template::row(shape, view),
            None => Template::read(shape, &self.args.justification),
        }
    }

    /// What each aggregate gets before the measurement. When the first is refused by the domain,
    /// an earlier run has prepared it and the others are left out.
    pub(super) fn setup(&self, target: &Target) -> Vec<Template> {
        // Keys of a setup would need a counter of their own; its commands are safe to repeat.
        let shape = Shape {
            key_prefix: None,
            ..self.shape(target)
        };
        match (&self.args.setup_command, &self.args.command, self.builtin) {
            (Some(command), _, _) => {
                vec![Template::command(shape, command, &self.args.setup_body)]
            }
            (None, None, Some(builtin)) => builtin.setup(shape),
            (None, _, _) => Vec::new(),
        }
    }

    /// The target of a client that keeps to one.
    pub(super) fn target_of(&self, client: usize) -> Option<&Target> {
        self.targets.get(client % self.targets.len().max(1))
    }

    /// The stored length of every event of the measured part, where it is known.
    pub(super) fn event_bytes(&self) -> Option<usize> {
        let is_order = matches!(self.builtin, Some(Builtin::Order { .. }));
        let own = is_order && self.args.command.is_none();
        own.then(|| self.args.event_bytes.unwrap_or(builtin::EVENT_BYTES))
    }

    fn shape<'a>(&'a self, target: &'a Target) -> Shape<'a> {
        Shape {
            host: &target.host,
            aggregate_type: &self.args.aggregate_type,
            prefix: &self.args.prefix,
            key_prefix: self.key_prefix.as_deref(),
            payload_bytes: self.args.payload_bytes,
        }
    }
}

fn builtin_of(args: &Args) -> Result<Option<Builtin>, BenchError> {
    match args.aggregate_type.as_str() {
        "account" => Ok(Some(Builtin::Account {
            withdrawals: args.withdrawals,
        })),
        "order" => {
            let event_bytes = args.event_bytes.unwrap_or(builtin::EVENT_BYTES);
            let product_bytes = builtin::product_bytes(event_bytes)?;
            Ok(Some(Builtin::Order { product_bytes }))
        }
        _ => Ok(None),
    }
}

fn too_many_aggregates() -> BenchError {
    BenchError::Arguments(format!("--aggregates must be from 1 to {MAX_AGGREGATES}"))
}

fn check(args: &Args) -> Result<(), BenchError> {
    let refuse = |message: &str| Err(BenchError::Arguments(message.to_owned()));
    if !(1..=MAX_CLIENTS).contains(&args.clients) {
        return refuse("--clients must be from 1 to 20000");
    }
    if !(1..=args.clients).contains(&args.threads) {
        return refuse("--threads must be from 1 to the number of clients");
    }
    if !(1..=MAX_AGGREGATES).contains(&args.aggregates) {
        return Err(too_many_aggregates());
    }
    if args.duration.is_zero() || args.timeout.is_zero() {
        return refuse("--duration and --timeout must be longer than nothing");
    }
    if ![args.reads, args.withdrawals]
        .iter()
        .all(|share| (0.0..=1.0).contains(share))
    {
        return refuse("--reads and --withdrawals must be from 0 to 1");
    }
    if !(args.exponent > 0.0 && args.exponent <= 10.0) {
        return refuse("--exponent must be above 0 and at most 10");
    }
    match (args.mode, args.rate) {
        (Mode::Open, Some(rate)) if (0.1..=10_000_000.0).contains(&rate) => {}
        (Mode::Open, Some(_)) => return refuse("--rate must be from 0.1 to 10000000"),
        (Mode::Open, None) => return refuse("--mode open needs --rate"),
        (Mode::Closed, Some(_)) => return refuse("--rate needs --mode open"),
        (Mode::Closed, None) => {}
    }
    let is_known = matches!(args.aggregate_type.as_str(), "account" | "order");
    if !is_known && args.command.is_none() && args.reads < 1.0 {
        return refuse("a --type other than account and order needs --command and --body");
    }
    if args.event_bytes.is_some() && (args.aggregate_type != "order" || args.command.is_some()) {
        return refuse(
            "--event-bytes needs --type order and its own commands: the product's name makes up \
             the length, and no other workload is known to have such a text",
        );
    }
    if args.urls.len() > MAX_URLS {
        return refuse("more than 100 URLs");
    }
    check_texts(args)
}

/// These texts are sent as they are, so they must not be able to end a line or a path.
fn check_texts(args: &Args) -> Result<(), BenchError> {
    let is_path_part = |text: &str| {
        text.bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b"._~:@-".contains(&byte))
    };
    let optional = args.command.iter().chain(&args.setup_command);
    let optional = optional.chain(&args.view);
    for text in optional.chain([&args.aggregate_type, &args.prefix, &args.justification]) {
        if !is_path_part(text) || text.len() > 180 {
            return Err(BenchError::Arguments(format!(
                "`{text}` may hold only letters, digits and . _ ~ : @ - and 180 characters"
            )));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    fn plan(extra: &[&str]) -> Result<Plan, BenchError> {
        let args = ["bench", "http://127.0.0.1:1"].iter().chain(extra);
        Plan::new(Args::try_parse_from(args).unwrap())
    }

    #[test]
    fn contradictions_are_refused() {
        assert!(plan(&[]).is_ok());
        for bad in [
            &["--mode", "open"][..],
            &["--rate", "5"],
            &["--clients", "0"],
            &["--threads", "65"],
            &["--reads", "1.5"],
            &["--view", "a/b"],
            &["--type", "prescription"],
            &["--event-bytes", "100"],
            &["--type", "order", "--event-bytes", "3"],
            &[
                "--type",
                "order",
                "--command",
                "Pay",
                "--event-bytes",
                "100",
            ],
            &["--prefix", "a b"],
            &["--prefix", "a\r\nb"],
            &["--duration", "0"],
        ] {
            assert!(plan(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn the_shares_of_the_account_add_up() {
        let plan = plan(&["--withdrawals", "0.4"]).unwrap();
        let commands = plan.commands(&plan.targets[0]);
        let sum: f64 = commands.iter().map(|command| command.share).sum();
        assert!((sum - 1.0).abs() < 1e-12);
    }
}
