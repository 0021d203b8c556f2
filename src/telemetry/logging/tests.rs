//! What reaches the log, tried on a subscriber that writes into memory.

use std::io;
use std::sync::{Arc, Mutex};

use super::*;

const HUMAN: Style = Style {
    json: false,
    colours: false,
};
const JSON: Style = Style {
    json: true,
    colours: false,
};

/// Collects what is logged.
#[derive(Debug, Clone, Default)]
struct Memory(Arc<Mutex<Vec<u8>>>);

impl io::Write for Memory {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn logged(level: &str, style: Style, act: impl FnOnce()) -> String {
    let memory = Memory::default();
    let writer = memory.clone();
    let subscriber = subscriber(level, style, move || writer.clone()).unwrap();
    tracing::subscriber::with_default(subscriber, act);
    let bytes = memory.0.lock().unwrap().clone();
    String::from_utf8(bytes).unwrap()
}

#[test]
fn json_is_one_object_a_line_with_the_fields_of_the_event() {
    let text = logged("info", JSON, || {
        tracing::info!(shard = 3, "leader elected\nat last");
        tracing::warn!("disk is slow");
    });

    let lines: Vec<serde_json::Value> = text
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    assert_eq!(lines.len(), 2, "{text}");
    assert_eq!(lines[0]["level"], "INFO");
    assert_eq!(lines[0]["shard"], 3);
    assert_eq!(lines[0]["message"], "leader elected\nat last");
    assert_eq!(lines[1]["message"], "disk is slow");
}

#[test]
fn a_human_line_has_level_message_and_fields() {
    let text = logged("info", HUMAN, || {
        tracing::info!(shard = 3, "leader elected")
    });

    assert!(
        text.contains("INFO") && text.contains("leader elected shard=3"),
        "{text}"
    );
    assert!(
        !text.contains('\u{1b}'),
        "no colours away from a terminal: {text:?}"
    );
}

#[test]
fn the_level_holds_for_all_and_a_directive_for_its_module() {
    let text = logged("warn,phalanx::journal=debug", HUMAN, || {
        tracing::info!("dropped");
        tracing::warn!("kept");
        tracing::debug!(target: "phalanx::journal", "kept too");
        tracing::trace!(target: "phalanx::journal", "dropped too");
    });

    assert!(text.contains("kept") && text.contains("kept too"), "{text}");
    assert!(!text.contains("dropped"), "{text}");
}

#[test]
fn libraries_that_see_requests_never_log_finer_than_info() {
    let text = logged("trace,h2=trace,hyper::proto=trace", HUMAN, || {
        tracing::debug!(target: "h2::codec", "authorization: Bearer s3cret");
        tracing::trace!(target: "hyper::proto::h1", "cookie: s3cret");
        tracing::trace!(target: "axum", "s3cret body");
        tracing::info!(target: "hyper", "listening");
        tracing::trace!(target: "hyperloop", "of another name");
    });

    assert!(!text.contains("s3cret"), "{text}");
    assert!(
        text.contains("listening") && text.contains("of another name"),
        "{text}"
    );
}

#[test]
fn a_redacted_field_is_not_shown_in_either_form() {
    for style in [HUMAN, JSON] {
        let token = crate::telemetry::Redacted::new("s3cret");

        let text = logged(
            "trace",
            style,
            || tracing::info!(%token, again = ?token, "signed in"),
        );

        assert!(
            text.contains("[redacted]") && !text.contains("s3cret"),
            "{text}"
        );
    }
}

#[test]
fn a_text_from_outside_cannot_steer_the_terminal_or_forge_a_line() {
    let id = "a\u{1b}[2Jb\nERROR forged";

    for style in [HUMAN, JSON] {
        let text = logged("info", style, || tracing::info!(%id, "seen {id}"));

        assert_eq!(text.lines().count(), 1, "{text:?}");
        assert!(
            !text.contains('\u{1b}') && text.contains("forged"),
            "{text:?}"
        );
    }
}

#[test]
fn what_the_level_excludes_is_switched_off_at_its_source() {
    for (level, most) in [
        ("info", LevelFilter::INFO),
        ("warn,h2=trace", LevelFilter::TRACE),
    ] {
        let subscriber = subscriber(level, JSON, io::sink).unwrap();

        assert_eq!(subscriber.max_level_hint(), Some(most), "{level}");
    }
}

#[test]
fn a_closed_log_does_not_disturb_the_caller() {
    const NAME: &str = "telemetry::logging::tests::a_closed_log_does_not_disturb_the_caller";
    const STAGE: &str = "PHALANX_TEST_LOG_IS_CLOSED";
    if std::env::var_os(STAGE).is_some() {
        init(&LogSettings::default()).unwrap();
        tracing::error!("nobody reads this");
        std::process::exit(7);
    }
    let (reader, writer) = io::pipe().unwrap();
    drop(reader);

    let status = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["--exact", NAME, "--nocapture"])
        .env(STAGE, "1")
        .stdout(std::process::Stdio::null())
        .stderr(writer)
        .status()
        .unwrap();

    assert_eq!(
        status.code(),
        Some(7),
        "a panic would have ended the test before"
    );
}

#[test]
fn a_malformed_level_is_an_error_that_names_the_key() {
    let error = subscriber("phalanx=loud", HUMAN, io::sink)
        .map(|_| ())
        .unwrap_err();

    assert!(
        error.to_string().contains("`log.level` = \"phalanx=loud\""),
        "{error}"
    );
}
