//! The rules of `[transport.tls]`: all files or none, and names that a certificate can carry.
//!
//! Refuses to look into the files: `serve` and `check-config` do, once the settings keep the rules.

use super::Violation;
use crate::settings::Settings;

/// Adds every broken rule of the section.
pub(super) fn check(settings: &Settings, found: &mut Vec<Violation>) {
    let files = settings.transport.tls.files();
    let (missing, given): (Vec<_>, Vec<_>) = files
        .iter()
        .partition(|(_, file)| file.as_os_str().is_empty());
    for (key, file) in &given {
        if file.to_str().is_none() {
            let rule = format!("`{key}` must be valid UTF-8");
            found.push(Violation::new(&[key], rule));
        }
    }
    let Some((with, _)) = given.first() else {
        return;
    };
    for (key, _) in missing {
        let rule =
            format!("`{key}` must be set as well: TLS needs all three files, and `{with}` is set");
        found.push(Violation::new(&[key, with], rule));
    }
    let name = &settings.cluster.name;
    // The last label of a DNS name is no number: it would be an address.
    let is_number = name.chars().all(|letter| letter.is_ascii_digit());
    if name.len() > 63 || name.starts_with('-') || name.ends_with('-') || is_number {
        let rule = format!(
            "`cluster.name` = {name:?} must have at most 63 characters, neither begin nor end with \
             - and not be a number, as it is part of the names in certificates (`{with}` is set)"
        );
        found.push(Violation::new(&["cluster.name", with], rule));
    }
}
