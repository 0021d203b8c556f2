//! Query strings: a fixed set of parameters per route, each at most once.
//!
//! An unknown parameter is an error that names it: a misspelt `dry_run` must not store events.
//! `+` stands for itself, as RFC 3986 says, so that the offset of a timestamp may be written plainly.

use std::borrow::Cow;
use std::collections::BTreeMap;

use percent_encoding::percent_decode_str;
use phalanx_actors::names::ShardId;

use super::problem::Problem;

/// Values in the order of the names that a route knows.
pub(crate) type Values<'a, const N: usize> = [Option<Cow<'a, str>>; N];

/// Reads a query against the parameters that a route knows.
///
/// # Errors
/// 400 `invalid-query` for an unknown or repeated parameter and for broken percent-encoding.
pub(crate) fn parse<'a, const N: usize>(
    query: Option<&'a str>,
    known: [&'static str; N],
) -> Result<Values<'a, N>, Problem> {
    let mut values = [const { None }; N];
    let Some(query) = query else {
        return Ok(values);
    };
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        let (name, value) = (decode(name)?, decode(value)?);
        let slot = known.iter().position(|k| *k == name);
        let Some(slot) = slot.and_then(|at| values.get_mut(at)) else {
            let detail = format!("unknown query parameter `{name}`");
            return Err(Problem::query(&name, detail));
        };
        if slot.replace(value).is_some() {
            let detail = format!("query parameter `{name}` appears twice");
            return Err(Problem::query(&name, detail));
        }
    }
    Ok(values)
}

/// A decoded name and its value.
pub(crate) type Pair<'a> = (Cow<'a, str>, Cow<'a, str>);

/// Decoded names and values in their order, for routes whose parameters depend on what they show.
///
/// # Errors
/// 400 `invalid-query` for broken percent-encoding.
pub(crate) fn pairs(query: Option<&str>) -> Result<Vec<Pair<'_>>, Problem> {
    let pairs = query.unwrap_or_default().split('&');
    pairs
        .filter(|pair| !pair.is_empty())
        .map(|pair| {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            Ok((decode(name)?, decode(value)?))
        })
        .collect()
}

fn decode(text: &str) -> Result<Cow<'_, str>, Problem> {
    percent_decode_str(text).decode_utf8().map_err(|_| {
        Problem::query(
            text,
            "the query is not UTF-8 after percent-decoding".to_owned(),
        )
    })
}

/// A whole number in a range.
///
/// # Errors
/// 400 `invalid-query` naming the parameter and the range.
pub(crate) fn number(
    name: &'static str,
    value: &str,
    range: std::ops::RangeInclusive<u64>,
) -> Result<u64, Problem> {
    let digits = !value.is_empty() && value.bytes().all(|b| b.is_ascii_digit());
    let parsed = value.parse().ok().filter(|n| digits && range.contains(n));
    parsed.ok_or_else(|| {
        let top = if *range.end() == u64::MAX {
            String::new()
        } else {
            format!(" and at most {}", range.end())
        };
        let detail = format!(
            "`{name}` must be a whole number of at least {}{top}",
            range.start()
        );
        Problem::query(name, detail)
    })
}

/// A list of places with commas between, by shard; `read` reads one of them. `None` where it cannot, and
/// where a shard stands twice: whichever was taken, the other might be meant.
pub(crate) fn by_shard<T>(
    list: &str,
    read: impl Fn(&str) -> Option<(ShardId, T)>,
) -> Option<BTreeMap<ShardId, T>> {
    let mut places = BTreeMap::new();
    for place in list.split(',') {
        let (shard, place) = read(place)?;
        if places.insert(shard, place).is_some() {
            return None;
        }
    }
    Some(places)
}

/// `true` or `false`.
///
/// # Errors
/// 400 `invalid-query` naming the parameter.
pub(crate) fn boolean(name: &'static str, value: &str) -> Result<bool, Problem> {
    match value {
        "true" => Ok(true),
        "false" => Ok(false),
        _ => Err(Problem::query(
            name,
            format!("`{name}` must be true or false"),
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::code::Code;

    #[test]
    fn known_parameters_are_read_once_each() {
        let [a, b] = parse(Some("b=x%20y&a=1"), ["a", "b"]).unwrap();
        assert_eq!((a.as_deref(), b.as_deref()), (Some("1"), Some("x y")));
        let [a] = parse(Some("a=10:00:00+02:00&&"), ["a"]).unwrap();
        assert_eq!(a.as_deref(), Some("10:00:00+02:00"));
        assert_eq!(parse(None, ["a"]).unwrap(), [None]);
    }

    #[test]
    fn anything_else_is_refused() {
        for bad in ["c=1", "a=1&a=1", "a=%ff", "%ff=1", "=1", "A=1"] {
            let problem = parse(Some(bad), ["a", "b"]).unwrap_err();
            assert_eq!(problem.code(), Code::InvalidQuery, "{bad}");
        }
    }

    #[test]
    fn numbers_have_plain_digits_and_a_range() {
        assert_eq!(number("limit", "1000", 1..=1000).unwrap(), 1000);
        for bad in [
            "",
            "0",
            "1001",
            "+5",
            "-1",
            "1.0",
            " 1",
            "1e2",
            "99999999999999999999",
        ] {
            assert!(number("limit", bad, 1..=1000).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_shard_stands_once_in_a_list_of_places() {
        let read = |text: &str| Some((text.parse().ok()?, ()));
        let shards = |list| by_shard(list, read).map(|places| places.into_keys().collect());
        assert_eq!(shards("3,0"), Some(vec![0, 3]));
        for bad in ["", "0,", ",0", "0,x", "0,1,0"] {
            assert_eq!(shards(bad), None, "{bad}");
        }
    }

    #[test]
    fn booleans_are_words() {
        assert!(boolean("dry_run", "true").unwrap());
        for bad in ["", "1", "True", "yes"] {
            assert!(boolean("dry_run", bad).is_err());
        }
    }
}
