//! As much of the Redis protocol as the driver needs: writing commands, finding a reply's end.

/// A command as an array of strings.
pub(crate) fn encode(parts: &[&str]) -> Vec<u8> {
    let mut bytes = format!("*{}\r\n", parts.len()).into_bytes();
    for part in parts {
        bytes.extend_from_slice(format!("${}\r\n{part}\r\n", part.len()).as_bytes());
    }
    bytes
}

/// The length of the first whole reply; `None` when it is not complete.
pub(crate) fn reply_len(bytes: &[u8]) -> Option<usize> {
    let line_end = bytes.iter().position(|&byte| byte == b'\n')? + 1;
    let (line, rest) = bytes.split_at_checked(line_end)?;
    let number = || {
        let digits = line.get(1..)?.trim_ascii_end();
        std::str::from_utf8(digits).ok()?.parse::<i64>().ok()
    };
    match line.first()? {
        b'$' => {
            let Ok(length) = usize::try_from(number()?) else {
                return Some(line_end);
            };
            let total = line_end + length + 2;
            (bytes.len() >= total).then_some(total)
        }
        b'*' => {
            let mut total = line_end;
            let mut rest = rest;
            for _ in 0..number()? {
                let length = reply_len(rest)?;
                total += length;
                rest = rest.get(length..)?;
            }
            Some(total)
        }
        _ => Some(line_end),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replies_end_where_they_say() {
        assert_eq!(encode(&["GET", "key"]), b"*2\r\n$3\r\nGET\r\n$3\r\nkey\r\n");
        for whole in [
            ":12\r\n",
            "-ERR no\r\n",
            "$3\r\nabc\r\n",
            "$-1\r\n",
            "*2\r\n$1\r\na\r\n:3\r\n",
        ] {
            assert_eq!(reply_len(whole.as_bytes()), Some(whole.len()), "{whole:?}");
            for cut in 0..whole.len() {
                assert_eq!(
                    reply_len(&whole.as_bytes()[..cut]),
                    None,
                    "{whole:?} cut at {cut}"
                );
            }
        }
    }
}
