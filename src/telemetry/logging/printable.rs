//! Fields of a line for people, with control characters written as escapes.
//!
//! An id or a path may come from a client; as it stands it could clear the terminal or forge a
//! second line. JSON escapes by itself and does not pass here. Invariant: one event is one line
//! without control characters of its own.

use std::fmt::{self, Write};

use tracing::field::Field;
use tracing_subscriber::field::MakeExt;
use tracing_subscriber::fmt::FormatFields;
use tracing_subscriber::fmt::format::{Writer, debug_fn};

/// The message first, then `name=value`, separated by spaces.
pub(super) fn fields() -> impl for<'a> FormatFields<'a> + Send + Sync + 'static {
    debug_fn(write_field).delimited(" ")
}

fn write_field(writer: &mut Writer<'_>, field: &Field, value: &dyn fmt::Debug) -> fmt::Result {
    if field.name() != "message" {
        write!(writer, "{}=", field.name())?;
    }
    write!(Printable(writer), "{value:?}")
}

/// Passes text on and escapes its control characters.
struct Printable<'a, W>(&'a mut W);

impl<W: Write> Write for Printable<'_, W> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for part in text.split_inclusive(char::is_control) {
            match part.chars().next_back() {
                Some(control) if control.is_control() => {
                    self.0.write_str(part.trim_end_matches(control))?;
                    write!(self.0, "{}", control.escape_default())?;
                }
                Some(_) | None => self.0.write_str(part)?,
            }
        }
        Ok(())
    }
}
