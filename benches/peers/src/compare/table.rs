//! The table of medians and ratios, and every sample as JSON.

use std::io::Write as _;

use serde::Serialize;

use super::contestant::Contestant;
use super::measure::{Sample, WORKLOADS};
use super::{Args, CompareError, Samples};

/// What goes into the file.
#[derive(Debug, Serialize)]
struct File<'a> {
    rounds: usize,
    seconds: u32,
    aggregates: u64,
    samples: &'a Samples,
    medians: Vec<Row>,
    skipped: &'a [String],
    failures: &'a [String],
}

/// One cell of the table.
#[derive(Debug, Serialize)]
struct Row {
    contestant: &'static str,
    workload: &'static str,
    median: Sample,
    /// Phalanx's throughput divided by this one's; above 1 Phalanx is faster.
    phalanx_throughput_ratio: Option<f64>,
    /// Phalanx's p50 divided by this one's; below 1 Phalanx is faster.
    phalanx_p50_ratio: Option<f64>,
}

/// Prints the table and writes the file.
pub(super) fn print(
    args: &Args,
    samples: &Samples,
    skipped: &[String],
    failures: &[String],
) -> Result<(), CompareError> {
    let medians = rows(samples);
    let mut text = render(args, &medians);
    for line in skipped {
        text += &format!("SKIPPED {line}\n");
    }
    for line in failures {
        text += &format!("FAILED {line}\n");
    }
    let mut out = std::io::stdout().lock();
    out.write_all(text.as_bytes())
        .map_err(CompareError::system("print the table"))?;
    let (rounds, seconds, aggregates) = (args.rounds, args.seconds, args.aggregates);
    let file = File {
        rounds,
        seconds,
        aggregates,
        samples,
        medians,
        skipped,
        failures,
    };
    let json = serde_json::to_string_pretty(&file)
        .map_err(|error| CompareError::Measure(error.to_string()))?;
    let write = || {
        if let Some(directory) = args.json.parent() {
            std::fs::create_dir_all(directory)?;
        }
        std::fs::write(&args.json, json + "\n")
    };
    write().map_err(CompareError::system(format!(
        "write {}",
        args.json.display()
    )))?;
    writeln!(out, "every sample: {}", args.json.display())
        .map_err(CompareError::system("print the table"))
}

fn rows(samples: &Samples) -> Vec<Row> {
    let find = |contestant: Contestant, workload: &str| {
        samples
            .get(contestant.name())
            .and_then(|all| all.get(workload))
            .and_then(|all| median(all))
    };
    let mut rows = Vec::new();
    for contestant in Contestant::ALL {
        for workload in WORKLOADS {
            let Some(median) = find(contestant, workload.name) else {
                continue;
            };
            let phalanx = find(Contestant::Phalanx, workload.name);
            rows.push(Row {
                contestant: contestant.name(),
                workload: workload.name,
                median,
                phalanx_throughput_ratio: phalanx.map(|own| own.per_second / median.per_second),
                phalanx_p50_ratio: phalanx.map(|own| own.p50_us / median.p50_us),
            });
        }
    }
    rows
}

/// The median of each figure by itself.
fn median(samples: &[Sample]) -> Option<Sample> {
    let of = |figure: fn(&Sample) -> f64| {
        let mut values: Vec<f64> = samples.iter().map(figure).collect();
        values.sort_by(f64::total_cmp);
        let (low, high) = (
            values.get((values.len().max(1) - 1) / 2)?,
            values.get(values.len() / 2)?,
        );
        Some(f64::midpoint(*low, *high))
    };
    Some(Sample {
        per_second: of(|sample| sample.per_second)?,
        p50_us: of(|sample| sample.p50_us)?,
        p99_us: of(|sample| sample.p99_us)?,
    })
}

fn render(args: &Args, rows: &[Row]) -> String {
    let mut text = format!(
        "medians of {} rounds, {} s each, {} accounts; `phalanx/it` compares Phalanx with the row\n",
        args.rounds, args.seconds, args.aggregates
    );
    for workload in WORKLOADS {
        text += &format!(
            "\n{:<20}{:>12}{:>12}{:>12}{:>16}{:>16}\n",
            workload.name, "per second", "p50", "p99", "phalanx/it", "phalanx/it p50"
        );
        for row in rows.iter().filter(|row| row.workload == workload.name) {
            text += &format!(
                "{:<20}{:>12.0}{:>9.0} us{:>9.0} us{:>16}{:>16}\n",
                row.contestant,
                row.median.per_second,
                row.median.p50_us,
                row.median.p99_us,
                ratio(row.phalanx_throughput_ratio),
                ratio(row.phalanx_p50_ratio)
            );
        }
    }
    text.push('\n');
    for contestant in Contestant::ALL {
        text += &format!("{:<20}{}\n", contestant.name(), contestant.description());
    }
    text
}

fn ratio(value: Option<f64>) -> String {
    value.map_or_else(|| "-".to_owned(), |value| format!("{value:.2}x"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(per_second: f64) -> Sample {
        Sample {
            per_second,
            p50_us: 1.0,
            p99_us: 2.0,
        }
    }

    #[test]
    fn medians_of_odd_even_and_no_samples() {
        let of = |values: &[f64]| {
            let samples: Vec<Sample> = values.iter().copied().map(sample).collect();
            median(&samples).map(|median| median.per_second)
        };
        assert_eq!(of(&[3.0, 1.0, 2.0]), Some(2.0));
        assert_eq!(of(&[4.0, 1.0, 2.0, 3.0]), Some(2.5));
        assert_eq!(of(&[]), None);
    }

    #[test]
    fn ratios_are_relative_to_phalanx() {
        let mut samples = Samples::new();
        for (name, per_second) in [("phalanx", 50.0), ("redis", 100.0)] {
            let all = samples.entry(name).or_default();
            all.entry(WORKLOADS[0].name)
                .or_default()
                .push(sample(per_second));
        }
        let ratios: Vec<_> = rows(&samples)
            .iter()
            .map(|row| row.phalanx_throughput_ratio)
            .collect();
        assert_eq!(ratios, [Some(1.0), Some(0.5)]);
    }
}
