//! What a node says instead of an answer, and what to do about it.

use std::fmt::Write as _;
use std::process::ExitCode;

use serde_json::Value;

use super::super::ask::AskError;
use super::super::output;

/// Exit code for an aggregate that does not exist, or has not come that far.
const EXIT_ABSENT: u8 = 3;

/// Prints why there is no answer; gives the exit code.
pub(super) fn show(error: &AskError) -> ExitCode {
    let AskError::Status { status, text, .. } = error else {
        return match error {
            AskError::Url { .. } => output::unusable(error),
            _ => output::failed(error),
        };
    };
    let number: u16 = status
        .split(' ')
        .nth(1)
        .and_then(|number| number.parse().ok())
        .unwrap_or(0);
    let Some(words) = serde_json::from_str(text).ok().as_ref().and_then(words) else {
        return output::failed(error);
    };
    match number {
        404 => output::absent(&words, EXIT_ABSENT),
        429 => output::failed(&words),
        400..=499 => output::unusable(&words),
        _ => output::failed(&words),
    }
}

/// A problem in words.
fn words(problem: &Value) -> Option<String> {
    let code = problem["code"].as_str()?;
    let detail = problem["detail"].as_str()?;
    let mut words = format!("{detail} ({code})");
    if let Some(pointer) = problem["pointer"].as_str().filter(|at| !at.is_empty()) {
        // Writing to a string cannot fail.
        write!(words, "\n  at {pointer} of the question").ok();
    }
    if let Some(advice) = advice(code, problem) {
        write!(words, "\n{advice}").ok();
    }
    Some(words)
}

fn advice(code: &str, problem: &Value) -> Option<String> {
    Some(match code {
        "justification-required" | "justification-unknown" => {
            let mut text = "Say why the state has to be fresh with --justification NAME, or read \
                            what `at` and `history` show without one:"
                .to_owned();
            for declared in problem["justifications"].as_array().into_iter().flatten() {
                let name = declared["name"].as_str().unwrap_or_default();
                let description = declared["description"].as_str().unwrap_or_default();
                write!(text, "\n  {name:16}  {description}").ok();
            }
            let views: Vec<&str> = problem["views"]
                .as_array()
                .into_iter()
                .flatten()
                .filter_map(Value::as_str)
                .collect();
            if !views.is_empty() {
                let views = views.join(", ");
                write!(text, "\nRead models that serve this type: {views}").ok();
            }
            text
        }
        "aggregate-not-found" => {
            "Check the type and the id, and the time if one was given.".to_owned()
        }
        "unknown-aggregate-type" => "GET /v1/types lists the types of the node.".to_owned(),
        "sequence-not-reached" => {
            let current = &problem["current_sequence_number"];
            format!("Ask for a sequence number up to {current}.")
        }
        "no-leader" | "overloaded" | "not-ready" | "shutting-down" | "rate-limited" => {
            "Ask again in a moment; `phalanx cluster status` shows who leads what.".to_owned()
        }
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_missing_justification_lists_those_that_are_declared() {
        let text = words(&json!({
            "code": "justification-required",
            "detail": "a fresh read needs a reason",
            "justifications": [{"name": "operator", "description": "Somebody looks."}],
            "views": ["accounts", "account_totals"],
        }))
        .unwrap();
        assert!(text.contains("--justification NAME"), "{text}");
        assert!(
            text.contains("\n  operator          Somebody looks."),
            "{text}"
        );
        assert!(text.ends_with("accounts, account_totals"), "{text}");
    }

    #[test]
    fn the_place_is_named() {
        let problem =
            json!({"code": "malformed-body", "detail": "no", "pointer": "/insert/0/type"});
        assert_eq!(
            words(&problem).unwrap(),
            "no (malformed-body)\n  at /insert/0/type of the question"
        );
        assert_eq!(words(&json!({})), None);
    }
}
