//! What a node says instead of doing what it was asked, for the person who asked.
//!
//! Owns the words of every failure of `phalanx cluster ...` and what to do next. Refuses to hide
//! anything: with `--json` the problem is printed as it was received, on standard output. Invariant:
//! whatever is printed here ends with exit code 1, or with 2 where `--url` itself is no address.

use std::fmt::Write as _;
use std::process::ExitCode;

use serde_json::Value;

use super::super::ask::AskError;
use super::super::output;

/// Prints why it was not done; gives the exit code.
pub(super) fn show(error: &AskError, url: &str, as_json: bool) -> ExitCode {
    let text = match error {
        AskError::Url { .. } => return output::unusable(error),
        AskError::Connect { .. } | AskError::Io { .. } | AskError::NoHttp { .. } => {
            return output::failed(error);
        }
        AskError::Status { text, .. } => text,
    };
    let problem: Option<Value> = serde_json::from_str(text).ok();
    let Some(problem) = problem.filter(Value::is_object) else {
        // Something else than a node: a proxy, or another program.
        return output::failed(error);
    };
    if as_json {
        output::result(format!("{problem:#}\n").as_bytes());
        return ExitCode::FAILURE;
    }
    match words(&problem, url) {
        Some(words) => output::failed(&words),
        None => output::failed(error),
    }
}

/// A problem in words.
fn words(problem: &Value, url: &str) -> Option<String> {
    let code = problem["code"].as_str()?;
    let title = problem["title"].as_str()?;
    let detail = problem["detail"].as_str()?;
    let mut words = format!("{title} ({code})\n  {detail}");
    if let Some(pointer) = problem["pointer"].as_str().filter(|at| !at.is_empty()) {
        // Writing to a string cannot fail.
        write!(words, "\n  at {pointer} of what was sent").ok();
    }
    if problem["outcome"] == "unknown" {
        words.push_str("\n  it may have been done all the same");
    }
    let rejection = problem["rejection"].as_str().unwrap_or_default();
    let next = advice(code, rejection, url);
    write!(words, "\nNext: {next}").ok();
    Some(words)
}

fn advice(code: &str, rejection: &str, url: &str) -> String {
    let status = format!("`phalanx cluster status --url {url}`");
    match (code, rejection) {
        ("unknown-node", _) => format!("{status} shows the members."),
        ("unknown-shard", _) => format!("{status} shows the shards."),
        ("transfer-refused", _) => format!(
            "{status} shows who votes in the shard, who drains and how far each copy lags; one that \
             lags catches up by itself, and `phalanx cluster undrain ID` brings one that drains back."
        ),
        ("membership-refused", "id-taken" | "id-used") => format!(
            "give the new node a node.id that was never used, in its config file as well; {status} \
             shows the members."
        ),
        ("membership-refused", "address-taken") => {
            format!("give the address at which the new node itself listens; {status} shows the others.")
        }
        ("membership-refused", "last-member") => {
            "stop the node if the cluster is to end, or let another one join first.".to_owned()
        }
        ("membership-refused", "cluster-of-one") => {
            "name the new node in [[cluster.peers]] of the running one's config file, restart that, \
             and ask again."
                .to_owned()
        }
        ("membership-refused", "leaving") => {
            "start a new node under a new id and let it join: `phalanx cluster join`.".to_owned()
        }
        ("membership-refused", "older-release") => "restart that node; it leads again then.".to_owned(),
        ("member-unreachable", _) => format!(
            "{status} shows why it is not reached; if it runs, ask it itself with --url. Asking twice \
             does no harm."
        ),
        ("transfer-timeout" | "outcome-unknown", _) => {
            format!("{status} shows what came of it; asking twice does no harm.")
        }
        ("no-leader" | "not-ready" | "overloaded" | "shutting-down", _) => {
            format!("ask again in a moment, or another member; {status} shows who leads what.")
        }
        ("malformed-body", _) => "correct the argument that the line above names.".to_owned(),
        _ => format!("{url}/problems/{code} says what this means."),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_refusal_is_told_by_title_detail_and_what_to_do() {
        let problem = json!({
            "type": "/problems/unknown-node",
            "title": "There is no such member of the cluster",
            "status": 404,
            "detail": "there is no member 9; the members are 1 and 2",
            "code": "unknown-node",
            "pointer": "/to",
            "outcome": "not_applied",
            "trace_id": "0af7",
        });
        assert_eq!(
            words(&problem, "http://n:1").unwrap(),
            "There is no such member of the cluster (unknown-node)\n  \
             there is no member 9; the members are 1 and 2\n  \
             at /to of what was sent\n\
             Next: `phalanx cluster status --url http://n:1` shows the members."
        );
    }

    #[test]
    fn an_unknown_outcome_is_said_and_a_code_of_another_release_has_its_page() {
        let problem = json!({
            "title": "Something new", "detail": "it says", "code": "brand-new", "outcome": "unknown",
        });
        assert_eq!(
            words(&problem, "http://n:1").unwrap(),
            "Something new (brand-new)\n  it says\n  it may have been done all the same\n\
             Next: http://n:1/problems/brand-new says what this means."
        );
        assert_eq!(
            words(&json!({"message": "from a proxy"}), "http://n:1"),
            None
        );
    }

    #[test]
    fn each_refusal_of_members_has_advice_of_its_own() {
        let rejections = [
            "id-taken",
            "address-taken",
            "last-member",
            "cluster-of-one",
            "leaving",
            "older-release",
        ];
        let mut seen = std::collections::BTreeSet::new();
        for rejection in rejections {
            let next = advice("membership-refused", rejection, "http://n:1");
            assert!(!next.contains("/problems/"), "{rejection}: {next}");
            assert!(seen.insert(next), "{rejection}");
        }
    }
}
