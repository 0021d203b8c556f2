//! Conditional requests (RFC 9110, section 13) on sequence numbers.
//!
//! The entity tag of an aggregate is its sequence number in quotes. Weak tags are well-formed but
//! never match where the strong comparison is asked for.

use phalanx_actors::request::Precondition;

use super::problem::Problem;

/// `*`, or a list of entity tags.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Tags {
    /// `*`: any current representation.
    Star,
    /// At least one tag.
    List(Vec<Tag>),
}

/// One entity tag.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Tag {
    weak: bool,
    /// The sequence number that it names; `None` for text that no aggregate can have.
    sequence_number: Option<u64>,
}

impl Tags {
    /// Reads one field line.
    ///
    /// # Errors
    /// 400 `invalid-header` when it is neither `*` nor a list of quoted tags.
    pub(crate) fn parse(name: &'static str, value: &[u8]) -> Result<Self, Problem> {
        let value = value.trim_ascii();
        if value == b"*" {
            return Ok(Self::Star);
        }
        match tag_list(value) {
            Some(tags) if !tags.is_empty() => Ok(Self::List(tags)),
            _ => Err(Problem::header(
                name,
                format!("{name} takes `*` or quoted entity tags, as in \"7\""),
            )),
        }
    }

    /// Joins a further field line of the same name.
    ///
    /// # Errors
    /// 400 `invalid-header` when `*` stands beside something else.
    pub(crate) fn join(self, name: &'static str, more: Self) -> Result<Self, Problem> {
        match (self, more) {
            (Self::List(mut tags), Self::List(more)) => {
                tags.extend(more);
                Ok(Self::List(tags))
            }
            _ => Err(Problem::header(
                name,
                format!("{name} takes `*` only on its own"),
            )),
        }
    }

    /// Whether the tags name this sequence number; 0 stands for an aggregate that does not exist.
    pub(crate) fn matches(&self, sequence_number: u64, weakly: bool) -> bool {
        match self {
            Self::Star => sequence_number > 0,
            Self::List(tags) => tags
                .iter()
                .filter(|tag| weakly || !tag.weak)
                .any(|tag| tag.sequence_number == Some(sequence_number)),
        }
    }
}

/// Reads comma-separated tags; commas may stand inside the quotes.
fn tag_list(mut rest: &[u8]) -> Option<Vec<Tag>> {
    let mut tags = Vec::new();
    loop {
        rest = rest.trim_ascii_start();
        match rest.split_first() {
            None => return Some(tags),
            Some((b',', tail)) => {
                rest = tail;
                continue;
            }
            Some(_) => {}
        }
        let unprefixed = rest.strip_prefix(b"W/");
        let weak = unprefixed.is_some();
        let opened = unprefixed.unwrap_or(rest).strip_prefix(b"\"")?;
        let end = opened.iter().position(|b| *b == b'"')?;
        let (text, tail) = opened.split_at_checked(end)?;
        let allowed = |b: &u8| *b == 0x21 || (0x23..=0x7e).contains(b) || *b >= 0x80;
        if !text.iter().all(allowed) {
            return None;
        }
        let sequence_number = canonical_number(text);
        tags.push(Tag {
            weak,
            sequence_number,
        });
        rest = tail.strip_prefix(b"\"")?.trim_ascii_start();
        if !rest.is_empty() && !rest.starts_with(b",") {
            return None;
        }
    }
}

/// Tags are compared as text, so only the form that we send names a number: `"07"` does not.
fn canonical_number(text: &[u8]) -> Option<u64> {
    let plain = text == b"0" || text.first().is_some_and(|b| (b'1'..=b'9').contains(b));
    if !plain || !text.iter().all(u8::is_ascii_digit) {
        return None;
    }
    std::str::from_utf8(text).ok()?.parse().ok()
}

/// What must hold for a command to run.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct CommandCondition {
    /// Tried first.
    pub(crate) first: Precondition,
    /// Further sequence numbers at which the command may run; a list in `If-Match` names several.
    /// A sequence number only grows, so trying the one that a mismatch reports terminates.
    pub(crate) others: Vec<u64>,
}

impl CommandCondition {
    /// Joins `If-Match` and `If-None-Match: *`.
    pub(crate) fn new(if_match: Option<&Tags>, absent: bool) -> Self {
        let mut condition = match if_match {
            None => Self::default(),
            Some(Tags::Star) => Self::from(Precondition::Exists),
            Some(Tags::List(tags)) => {
                let strong = tags.iter().filter(|tag| !tag.weak);
                let mut numbers = strong.filter_map(|tag| tag.sequence_number);
                let first = numbers
                    .next()
                    .map_or(Precondition::Never, Precondition::AtSequence);
                let others = numbers.collect();
                Self { first, others }
            }
        };
        if absent {
            let names_zero =
                |p: &Self| p.first == Precondition::AtSequence(0) || p.others.contains(&0);
            let possible = condition.first == Precondition::Any || names_zero(&condition);
            condition = Self::from(if possible {
                Precondition::Absent
            } else {
                Precondition::Never
            });
        }
        condition
    }
}

impl From<Precondition> for CommandCondition {
    fn from(first: Precondition) -> Self {
        Self {
            first,
            others: Vec::new(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(value: &str) -> Result<Tags, Problem> {
        Tags::parse("if-match", value.as_bytes())
    }

    fn condition(value: &str) -> CommandCondition {
        CommandCondition::new(Some(&parse(value).unwrap()), false)
    }

    #[test]
    fn one_strong_number_is_a_sequence_number() {
        assert_eq!(condition("\"7\"").first, Precondition::AtSequence(7));
        assert_eq!(condition(" * ").first, Precondition::Exists);
        assert_eq!(condition("\"0\"").first, Precondition::AtSequence(0));
    }

    #[test]
    fn weak_and_foreign_tags_never_match() {
        for never in ["W/\"7\"", "\"abc\"", "\"07\"", "\"\"", "\"7,8\"", "\"+7\""] {
            assert_eq!(condition(never).first, Precondition::Never, "{never}");
        }
        assert!(!parse("W/\"7\"").unwrap().matches(7, false));
        assert!(parse("W/\"7\"").unwrap().matches(7, true));
    }

    #[test]
    fn a_list_names_several() {
        let list = condition("\"x\", W/\"1\" ,, \"7\",\"9\"");
        assert_eq!(list.first, Precondition::AtSequence(7));
        assert_eq!(list.others, [9]);
    }

    #[test]
    fn malformed_tags_are_refused() {
        for bad in [
            "",
            ",",
            "7",
            "\"7",
            "7\"",
            "\"7\"\"8\"",
            "\"7\" \"8\"",
            "w/\"7\"",
            "*, \"7\"",
            "\"7\", *",
            "\"a b\"",
            "'7'",
            "\"7\";",
            "W/7",
            "**",
        ] {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn both_conditions_must_hold() {
        let both = |value| CommandCondition::new(Some(&parse(value).unwrap()), true).first;
        assert_eq!(both("\"7\""), Precondition::Never);
        assert_eq!(both("*"), Precondition::Never);
        assert_eq!(both("\"0\""), Precondition::Absent);
        assert_eq!(
            CommandCondition::new(None, true).first,
            Precondition::Absent
        );
    }
}
