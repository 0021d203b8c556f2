//! `phalanx projections rebuild`: begins a rebuild, and shows how far it is.
//!
//! Refuses to do anything itself: the node goes on whether somebody watches or not. Invariant: with
//! `--wait` it ends with 0 only when the new rows answer.

use std::io::{IsTerminal as _, Write as _};
use std::time::{Duration, Instant};

use clap::Args;

use super::{Failed, Named, PATIENCE, Projection, Rebuild};

/// How often the node is asked how far it is.
const LOOK: Duration = Duration::from_millis(300);
/// How often that is written where there is no terminal.
const LINE: Duration = Duration::from_secs(5);
/// Looks in a row that may fail: the node may be restarted meanwhile, and goes on.
const MOST_FAILURES: u32 = 60;
/// Cells of the bar.
const BAR: usize = 30;

#[derive(Debug, Args)]
pub(super) struct Arguments {
    #[command(flatten)]
    named: Named,
    /// Wait until the new rows answer, also if a rebuild is running already
    #[arg(long)]
    wait: bool,
}

impl Arguments {
    pub(super) fn run(self) -> Result<String, Failed> {
        let named = &self.named;
        // Rows that answer now: a rebuild has ended well when others do.
        let before = self.look()?;
        let begun = named.node.post(&named.path("/rebuild"), PATIENCE);
        match begun {
            Err(Failed::Refused { code, .. }) if self.wait && code == "rebuild-running" => {}
            Err(failed) => return Err(failed),
            Ok(answer) if !self.wait => {
                return named.node.show(&answer, |projection: &Projection| {
                    let (name, url) = (&projection.name, &named.node.url);
                    format!(
                        "{name} is being rebuilt; `phalanx projections list --url {url}` shows how \
                         far it is\n"
                    )
                });
            }
            Ok(_) => {}
        }
        self.follow(&before)
    }

    fn look(&self) -> Result<Projection, Failed> {
        let node = &self.named.node;
        node.read(&node.get(&self.named.path(""))?)
    }

    /// Looks until the rebuild has ended.
    fn follow(&self, before: &Projection) -> Result<String, Failed> {
        let mut progress = Progress::default();
        let mut failures = 0;
        let started = Instant::now();
        let ended = loop {
            match self.look() {
                Ok(projection) => {
                    failures = 0;
                    let Some(rebuild) = &projection.rebuild else {
                        break projection;
                    };
                    progress.show(&projection, rebuild);
                }
                Err(failed) => {
                    failures += 1;
                    if failures >= MOST_FAILURES || matches!(failed, Failed::Refused { .. }) {
                        progress.end();
                        return Err(failed);
                    }
                }
            }
            std::thread::sleep(LOOK);
        };
        progress.end();
        let name = &ended.name;
        if ended.build == before.build {
            return Err(Failed::Undone(format!(
                "the rebuild of {name} ended without new rows, and those before it answer on\n\
                 the node's log says why; mend that and rebuild again"
            )));
        }
        if self.named.node.json {
            let answer = self.named.node.get(&self.named.path(""))?;
            return Ok(format!("{}\n", String::from_utf8_lossy(&answer)));
        }
        let seconds = started.elapsed().as_secs_f64();
        Ok(format!(
            "{name} is rebuilt, after {seconds:.1} s; the new rows answer\n"
        ))
    }
}

/// How far a rebuild is, in words.
pub(super) fn words(rebuild: &Rebuild) -> String {
    let left = match rebuild.seconds_left {
        Some(seconds) => format!(", {} left", time(seconds)),
        None => String::new(),
    };
    let Rebuild {
        percent,
        events_per_second,
        ..
    } = rebuild;
    format!("{percent:.1} %, {events_per_second:.0} events/s{left}")
}

/// A time in the two largest units that it has.
fn time(seconds: f64) -> String {
    let whole = Duration::try_from_secs_f64(seconds)
        .unwrap_or(Duration::MAX)
        .as_secs();
    match whole {
        0..60 => format!("{whole} s"),
        60..3600 => format!("{} min {} s", whole / 60, whole % 60),
        _ => format!("{} h {} min", whole / 3600, whole / 60 % 60),
    }
}

/// The bar for a share of a hundred.
fn bar(percent: f64) -> String {
    #[expect(clippy::cast_precision_loss, reason = "the number of cells is small")]
    let cells = BAR as f64;
    let filled = (1..=BAR)
        .zip(1_u8..)
        .take_while(|(_, cell)| f64::from(*cell) * 100.0 <= percent * cells)
        .count();
    format!("[{}{}]", "#".repeat(filled), "-".repeat(BAR - filled))
}

/// What is shown meanwhile, on standard error.
#[derive(Debug, Default)]
struct Progress {
    /// Characters of the line on the terminal.
    width: usize,
    line_at: Option<Instant>,
}

impl Progress {
    fn show(&mut self, projection: &Projection, rebuild: &Rebuild) {
        let (name, mut words) = (&projection.name, words(rebuild));
        if projection.state == "paused" {
            words.push_str(", paused until `phalanx projections resume`");
        }
        let mut error = std::io::stderr().lock();
        // Who cannot see it is told the end by the exit code.
        if error.is_terminal() {
            let line = format!("{name} {} {words}", bar(rebuild.percent));
            let width = self.width;
            write!(error, "\r{line:width$}")
                .and_then(|()| error.flush())
                .ok();
            self.width = line.chars().count();
        } else if self.line_at.is_none_or(|at| at.elapsed() >= LINE) {
            self.line_at = Some(Instant::now());
            let left = rebuild.events_left;
            writeln!(error, "{name}: {words}, {left} events left").ok();
        }
    }

    /// Leaves the line.
    fn end(&mut self) {
        if std::mem::take(&mut self.width) > 0 {
            writeln!(std::io::stderr().lock()).ok();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bar_is_full_at_the_end_and_not_before() {
        assert_eq!(bar(0.0), format!("[{}]", "-".repeat(30)));
        assert_eq!(bar(100.0), format!("[{}]", "#".repeat(30)));
        assert_eq!(bar(99.9), format!("[{}-]", "#".repeat(29)));
        assert_eq!(bar(50.0), format!("[{}{}]", "#".repeat(15), "-".repeat(15)));
    }

    #[test]
    fn times_have_their_two_largest_units() {
        assert_eq!(time(0.4), "0 s");
        assert_eq!(time(59.9), "59 s");
        assert_eq!(time(61.0), "1 min 1 s");
        assert_eq!(time(7_260.0), "2 h 1 min");
        assert!(time(f64::INFINITY).ends_with("min"));
    }

    #[test]
    fn a_rebuild_without_a_rate_names_no_time() {
        let mut rebuild = Rebuild {
            percent: 12.34,
            events_left: 877,
            events_per_second: 0.0,
            seconds_left: None,
        };
        assert_eq!(words(&rebuild), "12.3 %, 0 events/s");
        rebuild.events_per_second = 100.4;
        rebuild.seconds_left = Some(8.77);
        assert_eq!(words(&rebuild), "12.3 %, 100 events/s, 8 s left");
    }
}
