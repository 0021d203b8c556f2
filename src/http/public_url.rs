//! Where clients reach the nodes, for what must be named by an absolute URI.
//!
//! Owns: the address that a setting gives, and a name that stands for it where there is none. It does not
//! depend on the request: every node says the same of an event. Invariant: the text makes an absolute URI
//! of a path behind it, and needs no escape in JSON.

/// What stands for the address where none is set: a scheme of its own, so that the path behind it is an
/// absolute URI (RFC 3986, section 4.3).
const UNNAMED: &str = "phalanx:";

/// Where clients reach the nodes.
#[derive(Debug, Clone)]
pub struct PublicUrl(String);

impl Default for PublicUrl {
    fn default() -> Self {
        Self(UNNAMED.to_owned())
    }
}

impl PublicUrl {
    /// What a setting says; an empty text leaves the address open.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(text: &str) -> Result<Self, &'static str> {
        if text.is_empty() {
            return Ok(Self::default());
        }
        let refused = Err("is no URL such as https://orders.example.com");
        let rest = text.strip_prefix("https://");
        let Some(rest) = rest.or_else(|| text.strip_prefix("http://")) else {
            return refused;
        };
        let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~:/[]%".contains(&byte);
        let host = rest.split('/').next().unwrap_or_default();
        if host.parse::<http::uri::Authority>().is_err() || !rest.bytes().all(allowed) {
            return refused;
        }
        Ok(Self(text.trim_end_matches('/').to_owned()))
    }

    /// What a path is put behind.
    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_what_the_setting_says() {
        let url = |text: &str| PublicUrl::parse(text).map(|url| url.0);
        let orders = "https://orders.example.com/api";
        assert_eq!(url(&format!("{orders}/")).as_deref(), Ok(orders));
        assert_eq!(url("http://[::1]:8080").as_deref(), Ok("http://[::1]:8080"));
        assert_eq!(url("").as_deref(), Ok("phalanx:"));
    }

    #[test]
    fn what_is_no_url_is_refused() {
        for bad in [
            "orders.example.com",
            "ftp://h",
            "http://",
            "https:///x",
            "http://h/a?b=c",
            "http://h/\"",
            "http://h h",
        ] {
            assert!(PublicUrl::parse(bad).is_err(), "{bad}");
        }
    }
}
