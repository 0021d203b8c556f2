//! The report for people, or as JSON for machines, on standard output.

use std::fmt::Write as _;
use std::io::{self, Write as _};

use super::report::{Latency, Part, Report};

/// Writes the report.
pub(super) fn print(report: &Report, json: bool) -> io::Result<()> {
    let mut text = if json {
        serde_json::to_string_pretty(report).map_err(io::Error::other)?
    } else {
        render(report)
    };
    if !text.ends_with('\n') {
        text.push('\n');
    }
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes())?;
    out.flush()
}

/// A number with commas between thousands.
pub(super) fn thousands(value: u64) -> String {
    let digits = value.to_string();
    let mut text = String::with_capacity(digits.len() * 4 / 3);
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

fn render(report: &Report) -> String {
    let mut lines = vec![heading(report), String::new()];
    lines.push(format!(
        "{:<20}{:>12}{:>12}{:>10}{:>10}{:>10}{:>10}{:>10}",
        "", "count", "per second", "p50", "p90", "p99", "p99.9", "max"
    ));
    for (name, part) in [
        ("commands", &report.commands),
        ("reads", &report.reads),
        ("refusals", &report.refusals),
    ] {
        if part.count > 0 {
            lines.extend(rows(name, part));
        }
    }
    lines.push(String::new());
    lines.push(requests(report));
    lines.push(counts("statuses", &report.statuses));
    for (name, all) in [
        ("rejections", &report.rejections),
        ("errors", &report.errors),
        ("without a reply", &report.connection_errors),
    ] {
        if !all.is_empty() {
            lines.push(counts(name, all));
        }
    }
    if let Some(schedule) = &report.schedule {
        lines.push(format!(
            "sent late           p50 {}, p99 {}, max {}; {} never sent",
            time(schedule.lateness.p50_us),
            time(schedule.lateness.p99_us),
            time(schedule.lateness.max_us),
            thousands(schedule.unsent)
        ));
    }
    if let Some(cost) = report.generator.cpu_us_per_request {
        lines.push(format!(
            "generator           {cost:.2} us of CPU per request"
        ));
    }
    lines.push(report.coordinated_omission.clone());
    lines.join("\n")
}

fn heading(report: &Report) -> String {
    let urls: Vec<&str> = report.nodes.iter().map(|node| node.url.as_str()).collect();
    let mut text = format!("{}: {} loop", urls.join(" "), report.mode);
    if let Some(rate) = report.rate_per_second {
        let _ = write!(text, " at {rate} requests/s");
    }
    let _ = write!(
        text,
        ", {} clients, {} aggregates of type {}, {:.1} s",
        report.clients,
        thousands(report.aggregates),
        report.aggregate_type,
        report.measured_seconds
    );
    if let Some(bytes) = report.event_bytes {
        let _ = write!(text, ", events of {bytes} bytes");
    }
    match report.route {
        "leader" => text += ", each request to its shard's leader",
        "other" => text += ", each request to a node that does not lead its shard",
        _ => {}
    }
    text
}

/// What became of the requests, and which node got how many.
fn requests(report: &Report) -> String {
    let all = &report.requests;
    let mut text = format!(
        "{:<20}{} sent, {} answered",
        "requests",
        thousands(all.sent),
        thousands(all.answered)
    );
    if all.unanswered > 0 {
        let _ = write!(text, ", {} unanswered", thousands(all.unanswered));
    }
    if all.not_sent > 0 {
        let _ = write!(text, ", {} more not sent", thousands(all.not_sent));
    }
    if report.nodes.len() > 1 {
        let shares: Vec<String> = report.nodes.iter().map(|n| thousands(n.sent)).collect();
        let _ = write!(text, "; by node {}", shares.join(", "));
    }
    text
}

fn rows(name: &str, part: &Part) -> Vec<String> {
    let mut rows = vec![format!(
        "{name:<20}{:>12}{:>12}{}",
        thousands(part.count),
        format!("{:.0}", part.per_second),
        columns(&part.latency)
    )];
    if let Some(corrected) = &part.latency_corrected {
        rows.push(format!("{:<44}{}", "  corrected", columns(corrected)));
    }
    rows
}

fn columns(latency: &Latency) -> String {
    [
        latency.p50_us,
        latency.p90_us,
        latency.p99_us,
        latency.p99_9_us,
        latency.max_us,
    ]
    .iter()
    .map(|us| format!("{:>10}", time(*us)))
    .collect()
}

fn counts<K: ToString>(name: &str, all: &std::collections::BTreeMap<K, u64>) -> String {
    let list: Vec<String> = all
        .iter()
        .map(|(key, count)| format!("{} x {}", key.to_string(), thousands(*count)))
        .collect();
    format!("{name:<20}{}", list.join(", "))
}

/// Microseconds in the unit that reads best.
fn time(us: f64) -> String {
    if us >= 1_000_000.0 {
        format!("{:.2} s", us / 1_000_000.0)
    } else if us >= 1_000.0 {
        format!("{:.2} ms", us / 1_000.0)
    } else {
        format!("{us:.0} us")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_read_well() {
        assert_eq!(thousands(0), "0");
        assert_eq!(thousands(999), "999");
        assert_eq!(thousands(1_234_567), "1,234,567");
        assert_eq!(time(999.0), "999 us");
        assert_eq!(time(1_500.0), "1.50 ms");
        assert_eq!(time(2_000_000.0), "2.00 s");
    }
}
