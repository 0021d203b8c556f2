//! An interest rate as a client writes it: a decimal number in a string.
//!
//! This file owns the exact arithmetic of interest. It refuses floating point, exponents and
//! anything that is not a plain decimal number. The invariant: a rate has at most
//! [`MAX_DIGITS`] digits, so that rate times balance always fits into 128 bits.

use std::borrow::Cow;
use std::fmt;
use std::str::FromStr;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};

/// The most digits of a rate, before and after the point together.
pub const MAX_DIGITS: usize = 18;

/// An interest rate in percent: `"1"`, `"0.25"`.
///
/// Written, stored and shown as the text it was given in (`"1.50"` stays `"1.50"`), computed with
/// integers. Negative numbers can be read, so that the domain and not the parser refuses them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct RatePercent {
    /// The digits without the point: 25 for `"0.25"`. Its magnitude is below 10^18.
    coefficient: i64,
    /// How many of the digits stand after the point: 2 for `"0.25"`. Below 18.
    decimals: u32,
}

/// The text is not a rate.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a rate is a decimal number such as \"0.25\", with at most {MAX_DIGITS} digits")]
pub struct RateError;

impl RatePercent {
    /// Whether the rate is above zero.
    #[must_use]
    pub fn is_positive(self) -> bool {
        self.coefficient > 0
    }

    /// The interest that this rate gives on a balance, rounded half-up to the cent: half a cent
    /// goes towards positive infinity. `None` when the result does not fit into 64 bits.
    #[must_use]
    pub fn interest_cents(self, balance_cents: i64) -> Option<i64> {
        // Below 2^63 * 10^18 * 2 < 2^124, and the divisor is at most 2 * 10^19.
        let doubled = 2 * i128::from(balance_cents) * i128::from(self.coefficient);
        let divisor = 100 * 10_i128.pow(self.decimals);
        i64::try_from((doubled + divisor).div_euclid(2 * divisor)).ok()
    }
}

impl FromStr for RatePercent {
    type Err = RateError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (sign, number) = match text.strip_prefix('-') {
            Some(number) => ("-", number),
            None => ("", text),
        };
        let (whole, fraction) = match number.split_once('.') {
            Some((whole, fraction)) if is_digits(fraction) => (whole, fraction),
            Some(_) => return Err(RateError),
            None => (number, ""),
        };
        let zero_padded = whole.len() > 1 && whole.starts_with('0');
        if !is_digits(whole) || zero_padded || whole.len() + fraction.len() > MAX_DIGITS {
            return Err(RateError);
        }
        Ok(Self {
            coefficient: format!("{sign}{whole}{fraction}")
                .parse()
                .map_err(|_| RateError)?,
            decimals: u32::try_from(fraction.len()).map_err(|_| RateError)?,
        })
    }
}

/// One or more ASCII digits.
fn is_digits(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit())
}

impl fmt::Display for RatePercent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let unit = 10_u64.pow(self.decimals);
        let digits = self.coefficient.unsigned_abs();
        let sign = if self.coefficient < 0 { "-" } else { "" };
        write!(f, "{sign}{}", digits / unit)?;
        if self.decimals > 0 {
            let width = usize::try_from(self.decimals).unwrap_or(MAX_DIGITS);
            write!(f, ".{:0width$}", digits % unit)?;
        }
        Ok(())
    }
}

impl TryFrom<String> for RatePercent {
    type Error = RateError;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<RatePercent> for String {
    fn from(rate: RatePercent) -> Self {
        rate.to_string()
    }
}

impl JsonSchema for RatePercent {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "RatePercent".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "type": "string",
            "description": "A rate in percent, as a decimal number of at most 18 digits.",
            "pattern": "^-?(0|[1-9][0-9]*)(\\.[0-9]+)?$",
            "examples": ["1", "0.25"]
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rate(text: &str) -> RatePercent {
        text.parse().unwrap()
    }

    #[test]
    fn a_rate_keeps_the_text_that_it_was_given_in() {
        for text in ["0", "1", "0.25", "1.50", "-0.5", "-12", "0.000", "100"] {
            assert_eq!(rate(text).to_string(), text);
            let json = format!("\"{text}\"");
            assert_eq!(
                serde_json::from_str::<RatePercent>(&json).unwrap(),
                rate(text)
            );
            assert_eq!(serde_json::to_string(&rate(text)).unwrap(), json);
        }
    }

    #[test]
    fn anything_but_a_plain_decimal_number_is_malformed() {
        let too_long = "0.123456789012345678";
        for text in [
            "", " ", "-", ".", "1.", ".5", "-.5", "+1", "--1", "01", "00", "1e2", "1,5", "1.2.3",
            " 1", "1 ", "1%", "0x1", "NaN", "inf", "١", too_long,
        ] {
            assert_eq!(text.parse::<RatePercent>(), Err(RateError), "{text:?}");
        }
        assert!(
            serde_json::from_str::<RatePercent>("1").is_err(),
            "a number"
        );
        assert!(serde_json::from_str::<RatePercent>("null").is_err());
    }

    #[test]
    fn half_a_cent_is_rounded_up() {
        assert_eq!(rate("1").interest_cents(100), Some(1));
        assert_eq!(rate("1").interest_cents(49), Some(0));
        assert_eq!(rate("1").interest_cents(50), Some(1));
        assert_eq!(rate("1").interest_cents(149), Some(1));
        assert_eq!(rate("1").interest_cents(150), Some(2));
        assert_eq!(rate("0.25").interest_cents(1_000), Some(3));
        assert_eq!(rate("0.25").interest_cents(999), Some(2));
        assert_eq!(rate("-1").interest_cents(50), Some(0));
        assert_eq!(rate("-1").interest_cents(51), Some(-1));
    }

    #[test]
    fn the_largest_numbers_are_computed_exactly_or_refused() {
        let largest = "9".repeat(MAX_DIGITS);
        assert_eq!(rate(&largest).interest_cents(i64::MAX), None);
        assert_eq!(rate(&largest).interest_cents(i64::MIN), None);
        assert_eq!(rate("100").interest_cents(i64::MAX), Some(i64::MAX));
        assert_eq!(rate("100").interest_cents(i64::MIN), Some(i64::MIN));
        let smallest = "0.00000000000000001";
        assert_eq!(rate(smallest).interest_cents(i64::MAX), Some(1));
        assert_eq!(
            rate(smallest).interest_cents(4_999_999_999_999_999_999),
            Some(0)
        );
        assert_eq!(
            rate(smallest).interest_cents(5_000_000_000_000_000_000),
            Some(1)
        );
    }
}
