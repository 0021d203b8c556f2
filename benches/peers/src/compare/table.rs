//! The table of medians and ratios, and every sample as JSON.

use std::io::Write as _;

use serde::Serialize;

use super::contestant::{Contestant, Group};
use super::measure::{DETOURS, Sample, WORKLOADS};
use super::{Args, CompareError, Samples};

/// What goes into the file.
#[derive(Debug, Serialize)]
struct File<'a> {
    rounds: usize,
    seconds: u32,
    aggregates: u64,
    samples: &'a Samples,
    medians: Vec<Row>,
    detours: Vec<Detour>,
    skipped: &'a [String],
    failures: &'a [String],
}

/// One cell of the table.
#[derive(Debug, Serialize)]
struct Row {
    nodes: &'static str,
    contestant: &'static str,
    workload: &'static str,
    median: Sample,
    /// Phalanx's throughput divided by this one's; above 1 Phalanx is faster.
    phalanx_throughput_ratio: Option<f64>,
    /// Phalanx's p50 divided by this one's; below 1 Phalanx is faster.
    phalanx_p50_ratio: Option<f64>,
}

/// Three nodes of Phalanx, reached by way of others than the leader.
#[derive(Debug, Serialize)]
struct Detour {
    workload: &'static str,
    median: Sample,
    /// Its throughput divided by that of requests to the leader.
    throughput_of_leader: Option<f64>,
    /// Its p50 divided by that of requests to the leader.
    p50_of_leader: Option<f64>,
}

/// Prints the table and writes the file.
pub(super) fn print(
    args: &Args,
    samples: &Samples,
    skipped: &[String],
    failures: &[String],
) -> Result<(), CompareError> {
    let (medians, detours) = (rows(samples), detours(samples));
    let mut text = render(args, &medians, &detours);
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
        detours,
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

fn find(samples: &Samples, contestant: Contestant, workload: &str) -> Option<Sample> {
    let of_contestant = samples.get(contestant.name())?;
    median(of_contestant.get(workload)?)
}

fn rows(samples: &Samples) -> Vec<Row> {
    let mut rows = Vec::new();
    for contestant in Contestant::ALL {
        let group = contestant.group();
        for workload in WORKLOADS {
            let Some(median) = find(samples, contestant, workload.name) else {
                continue;
            };
            let phalanx = find(samples, group.reference(), workload.name);
            rows.push(Row {
                nodes: group.name(),
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

fn detours(samples: &Samples) -> Vec<Detour> {
    let of = |workload: &str| find(samples, Contestant::Phalanx3, workload);
    let detour = |(direct, detour): (super::measure::Workload, super::measure::Workload)| {
        let median = of(detour.name)?;
        let leader = of(direct.name);
        Some(Detour {
            workload: detour.name,
            median,
            throughput_of_leader: leader.map(|leader| median.per_second / leader.per_second),
            p50_of_leader: leader.map(|leader| median.p50_us / leader.p50_us),
        })
    };
    DETOURS.into_iter().filter_map(detour).collect()
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

fn render(args: &Args, rows: &[Row], detours: &[Detour]) -> String {
    let mut text = format!(
        "medians of {} rounds, {} s each, {} aggregates; `phalanx/it` compares Phalanx on as many \
         nodes with the row\n",
        args.rounds, args.seconds, args.aggregates
    );
    for group in Group::ALL {
        for workload in WORKLOADS {
            let here = |row: &&Row| row.nodes == group.name() && row.workload == workload.name;
            let rows: Vec<&Row> = rows.iter().filter(here).collect();
            if !rows.is_empty() {
                let title = format!("{}: {}", group.name(), workload.name);
                text += &head(&title, ["phalanx/it", "phalanx/it p50"]);
            }
            for row in rows {
                let ratios = [row.phalanx_throughput_ratio, row.phalanx_p50_ratio];
                text += &line(row.contestant, &row.median, ratios);
            }
        }
    }
    if !detours.is_empty() {
        let title = "three nodes: phalanx-3 by other ways";
        text += &head(title, ["of leader", "of leader p50"]);
    }
    for detour in detours {
        let ratios = [detour.throughput_of_leader, detour.p50_of_leader];
        text += &line(detour.workload, &detour.median, ratios);
    }
    text.push('\n');
    let measured = |one: &Contestant| rows.iter().any(|row| row.contestant == one.name());
    for contestant in Contestant::ALL.into_iter().filter(measured) {
        text += &format!("{:<20}{}\n", contestant.name(), contestant.description());
    }
    text
}

fn head(title: &str, ratios: [&str; 2]) -> String {
    let [throughput, p50] = ratios;
    format!(
        "\n{title:<38}{:>12}{:>12}{:>12}{throughput:>16}{p50:>16}\n",
        "per second", "p50", "p99"
    )
}

fn line(name: &str, median: &Sample, ratios: [Option<f64>; 2]) -> String {
    let [throughput, p50] = ratios.map(ratio);
    format!(
        "{name:<38}{:>12.0}{:>9.0} us{:>9.0} us{throughput:>16}{p50:>16}\n",
        median.per_second, median.p50_us, median.p99_us,
    )
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
    fn ratios_are_relative_to_phalanx_on_as_many_nodes() {
        let mut samples = Samples::new();
        let measured = [
            ("phalanx", 50.0),
            ("redis", 100.0),
            ("phalanx-3", 30.0),
            ("etcd-3", 10.0),
        ];
        for (name, per_second) in measured {
            let all = samples.entry(name).or_default();
            all.entry(WORKLOADS[0].name)
                .or_default()
                .push(sample(per_second));
        }
        let ratios: Vec<_> = rows(&samples)
            .iter()
            .map(|row| (row.contestant, row.phalanx_throughput_ratio))
            .collect();
        let expected = [
            ("phalanx", Some(1.0)),
            ("redis", Some(0.5)),
            ("phalanx-3", Some(1.0)),
            ("etcd-3", Some(3.0)),
        ];
        assert_eq!(ratios, expected);
        assert!(detours(&samples).is_empty());
    }

    #[test]
    fn a_detour_is_compared_with_the_direct_way() {
        let mut samples = Samples::new();
        let all = samples.entry("phalanx-3").or_default();
        for (direct, detour) in DETOURS {
            all.insert(direct.name, vec![sample(40.0)]);
            all.insert(detour.name, vec![sample(30.0)]);
        }
        let ratios: Vec<_> = detours(&samples)
            .iter()
            .map(|detour| detour.throughput_of_leader)
            .collect();
        assert_eq!(ratios, [Some(0.75); 4]);
    }
}
