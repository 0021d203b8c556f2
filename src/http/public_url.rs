//! Where clients reach the node, for what must be named by an absolute URI.
//!
//! Owns: the address that a setting gives, and otherwise that of the request. Invariant: the text is an
//! absolute `http` or `https` URI without a `/` at its end, and needs no escape in JSON.

use http::header::HOST;
use http::request;

/// Where clients reach the node.
#[derive(Debug, Clone, Default)]
pub struct PublicUrl(Option<String>);

impl PublicUrl {
    /// What a setting says; an empty text stands for the address of each request.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(text: &str) -> Result<Self, &'static str> {
        if text.is_empty() {
            return Ok(Self(None));
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
        Ok(Self(Some(text.trim_end_matches('/').to_owned())))
    }

    /// The address under which a request came, unless the setting names one.
    pub(crate) fn of(&self, parts: &request::Parts) -> String {
        if let Some(url) = &self.0 {
            return url.clone();
        }
        let asked = parts.uri.authority().map(http::uri::Authority::as_str);
        let asked = asked.or_else(|| parts.headers.get(HOST)?.to_str().ok());
        // What a host may consist of was checked when the request was read; it may be empty.
        let host = asked.filter(|host| !host.is_empty() && !host.contains('@'));
        format!("http://{}", host.unwrap_or("localhost"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(setting: &str, uri: &str, host: Option<&str>) -> String {
        let mut request = http::Request::get(uri);
        if let Some(host) = host {
            request = request.header(HOST, host);
        }
        let (parts, ()) = request.body(()).unwrap().into_parts();
        PublicUrl::parse(setting).unwrap().of(&parts)
    }

    #[test]
    fn it_is_what_the_setting_says_or_where_the_request_went() {
        let orders = "https://orders.example.com/api/";
        assert_eq!(
            of(orders, "/", Some("h:1")),
            "https://orders.example.com/api"
        );
        assert_eq!(of("", "/", Some("127.0.0.1:8080")), "http://127.0.0.1:8080");
        assert_eq!(of("", "/", Some("[::1]:8080")), "http://[::1]:8080");
        assert_eq!(of("", "http://h:2/x", Some("h:1")), "http://h:2");
        assert_eq!(of("", "/", Some("")), "http://localhost");
        assert_eq!(of("", "/", None), "http://localhost");
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
